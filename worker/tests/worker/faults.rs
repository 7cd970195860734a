//! Faults between prefill and decode: the answer is right all the same.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hadal_types::Role;
use hadal_worker::{Config, Engine, Handle, SimConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::setup::{Router, config, is_idle, prompt, reference, sim, until, worker};

/// What a proxy does to what the sender sends.
#[derive(Clone, Copy)]
enum Fault {
    /// Flips a bit of the byte at this place.
    Flip(usize),
    /// Closes after so many bytes.
    Cut(usize),
}

/// Stands before a KV listener; harms the first `times` connections.
async fn proxy(to: SocketAddr, listener: TcpListener, fault: Fault, times: usize, connections: Arc<AtomicUsize>) {
    while let Ok((client, _)) = listener.accept().await {
        let harmed = connections.fetch_add(1, Ordering::SeqCst) < times;
        let server = TcpStream::connect(to).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        tokio::spawn(async move {
            let (mut seen, mut buffer) = (0, vec![0; 4096]);
            while let Ok(mut n @ 1..) = from_server.read(&mut buffer).await {
                match fault {
                    Fault::Flip(at) if harmed && (seen..seen + n).contains(&at) => buffer[at - seen] ^= 4,
                    Fault::Cut(at) if harmed => n = n.min(at - seen),
                    _ => {}
                }
                if n == 0 || to_client.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
                seen += n;
            }
        });
    }
}

struct Harmed {
    prefill: Handle,
    decode: Handle,
    connections: Arc<AtomicUsize>,
}

async fn harmed(engine: &Engine, fault: Fault, times: usize) -> Harmed {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let advertised = Some(listener.local_addr().unwrap().to_string());
    let prefill = worker(Config { transfer_advertise: advertised, ..config(Role::Prefill, "p") }, engine).await;
    let decode = worker(config(Role::Decode, "d"), engine).await;
    let connections = Arc::new(AtomicUsize::new(0));
    tokio::spawn(proxy(prefill.transfer_address.unwrap(), listener, fault, times, Arc::clone(&connections)));
    Harmed { prefill, decode, connections }
}

/// What one worker alone answers to the request of these tests.
async fn expected(engine: &Engine) -> Vec<u32> {
    let alone = worker(config(Role::Mixed, "alone"), engine).await;
    let router = Router::new(&alone, engine);
    router.ask(router.request("r", &prompt(1, 600), 20)).await.tokens
}

async fn answer(engine: &Engine, fleet: &Harmed) -> Vec<u32> {
    let router = Router::new(&fleet.decode, engine);
    let mut request = router.request("r", &prompt(1, 600), 20);
    request.prefill = Some(reference(&fleet.prefill));
    let answer = router.ask(request).await;
    assert_eq!(answer.error, None);
    answer.tokens
}

#[tokio::test]
async fn a_flipped_byte_is_sent_again() {
    let engine = sim();
    let fleet = harmed(&engine, Fault::Flip(3000), 1).await;
    assert_eq!(answer(&engine, &fleet).await, expected(&engine).await);
    assert_eq!(fleet.connections.load(Ordering::SeqCst), 2, "one retry from the source");
    until("pages come back", || is_idle(&fleet.decode) && is_idle(&fleet.prefill)).await;
}

#[tokio::test]
async fn a_cut_connection_is_made_again() {
    let engine = sim();
    let fleet = harmed(&engine, Fault::Cut(5000), 1).await;
    assert_eq!(answer(&engine, &fleet).await, expected(&engine).await);
    assert_eq!(fleet.connections.load(Ordering::SeqCst), 2);
    until("pages come back", || is_idle(&fleet.decode) && is_idle(&fleet.prefill)).await;
}

#[tokio::test]
async fn a_network_that_stays_broken_makes_the_decode_worker_compute() {
    let engine = sim();
    let fleet = harmed(&engine, Fault::Flip(2000), usize::MAX).await;
    assert_eq!(answer(&engine, &fleet).await, expected(&engine).await);
    assert_eq!(fleet.connections.load(Ordering::SeqCst), 2, "one retry, not more");
    until("pages come back", || is_idle(&fleet.decode) && is_idle(&fleet.prefill)).await;
}

#[tokio::test]
async fn a_prefill_worker_that_is_gone_makes_the_decode_worker_compute() {
    let engine = sim();
    let decode = worker(config(Role::Decode, "d"), &engine).await;
    let router = Router::new(&decode, &engine);
    let mut request = router.request("r", &prompt(1, 600), 20);
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    request.prefill =
        Some(hadal_proto::cluster::WorkerRef { id: "p".into(), incarnation: 1, grpc_address: nobody.to_string() });
    let answer = router.ask(request).await;
    assert_eq!(answer.tokens, expected(&engine).await);
    assert_eq!(answer.started.unwrap().prefill_worker, "");
}

#[tokio::test]
async fn a_prefill_worker_that_dies_on_the_way_makes_the_decode_worker_compute() {
    let engine = sim();
    let slow = Engine::sim(SimConfig { step: Duration::from_millis(20), ..SimConfig::instant() }, None, "sim");
    let fleet = Harmed {
        prefill: worker(config(Role::Prefill, "p"), &slow).await,
        decode: worker(config(Role::Decode, "d"), &engine).await,
        connections: Arc::default(),
    };
    let asked = answer(&engine, &fleet);
    tokio::pin!(asked);
    tokio::select! {
        answer = &mut asked => panic!("too early: {answer:?}"),
        () = until("it prefills", || !fleet.prefill.request_ids().is_empty()) => {}
    }
    let _ = fleet.prefill.join(Duration::ZERO).await;
    assert_eq!(asked.await, expected(&engine).await);
    until("pages come back", || is_idle(&fleet.decode)).await;
}

#[tokio::test]
async fn a_small_window_slows_down_and_changes_nothing() {
    let engine = sim();
    let prefill = worker(Config { kv_send_buffer: 1, ..config(Role::Prefill, "p") }, &engine).await;
    let decode = worker(Config { kv_window: 1, ..config(Role::Decode, "d") }, &engine).await;
    let fleet = Harmed { prefill, decode, connections: Arc::default() };
    assert_eq!(answer(&engine, &fleet).await, expected(&engine).await);
}

#[tokio::test]
async fn a_prefill_worker_of_another_model_is_refused_and_the_decode_worker_computes() {
    let engine = sim();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/deepseek_v32");
    let files = hadal_model::Files::open(folder.as_ref()).unwrap();
    let other = Engine::sim(SimConfig::instant(), Some(&files), "other");
    let fleet = Harmed {
        prefill: worker(config(Role::Prefill, "p"), &other).await,
        decode: worker(config(Role::Decode, "d"), &engine).await,
        connections: Arc::default(),
    };
    assert_eq!(answer(&engine, &fleet).await, expected(&engine).await);
}
