//! Conversations with a router that is a double, and with nobody.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hadal_proto::v1::hadal_client::HadalClient;
use hadal_proto::v1::hadal_server::{Hadal, HadalServer};
use hadal_shell::grpc;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::*;

type Events<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

/// For waits that end at once unless something is broken.
const LONG: Duration = Duration::from_secs(30);

/// Says back the last message in pieces; "hang" is answered by one piece and silence, "fail" by an error.
#[derive(Clone, Default)]
struct Echo {
    requests: Arc<Mutex<Vec<v1::ChatRequest>>>,
    begun: Arc<Notify>,
    dropped: Arc<Notify>,
}

#[tonic::async_trait]
impl Hadal for Echo {
    type GenerateStream = Events<v1::GenerateResponse>;
    type ChatStream = Events<v1::ChatResponse>;

    async fn generate(&self, _: Request<v1::GenerateRequest>) -> Result<Response<Self::GenerateStream>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn chat(&self, request: Request<v1::ChatRequest>) -> Result<Response<Self::ChatStream>, Status> {
        let request = request.into_inner();
        let said = request.messages.last().map(|message| message.content.clone()).unwrap_or_default();
        self.requests.lock().unwrap().push(request);
        if said == "fail" {
            return Err(Status::invalid_argument("too long"));
        }
        let (sender, receiver) = mpsc::channel(1);
        let (begun, dropped) = (self.begun.clone(), self.dropped.clone());
        tokio::spawn(async move {
            let delta = |text: &str| {
                let delta = v1::Delta { text: text.into(), ..Default::default() };
                Ok(v1::ChatResponse { event: Some(v1::chat_response::Event::Delta(delta)) })
            };
            let _ = sender.send(delta("<")).await;
            if said == "hang" {
                begun.notify_one();
                sender.closed().await;
                dropped.notify_one();
                return;
            }
            let _ = sender.send(delta(&said)).await;
            let _ = sender.send(delta(">")).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn tokenize(&self, _: Request<v1::TokenizeRequest>) -> Result<Response<v1::TokenizeResponse>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn models(&self, _: Request<v1::ModelsRequest>) -> Result<Response<v1::ModelsResponse>, Status> {
        let models = ["tiny", "large"].map(|name| v1::Model { name: name.into(), ..Default::default() });
        Ok(Response::new(v1::ModelsResponse { models: models.into() }))
    }
}

async fn serve(echo: &Echo) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = tonic::service::Routes::new(HadalServer::new(echo.clone()));
    tokio::spawn(grpc::serve(listener, None, routes, CancellationToken::new()));
    address
}

fn options(grpc: &str) -> Options {
    let system = Some("be brief".to_owned());
    let sampling = Sampling { seed: Some(7), ..Sampling::default() };
    Options { served: Served { grpc: grpc.to_owned(), model: None }, system, thinking: false, sampling }
}

fn client(address: &str) -> HadalClient<Channel> {
    HadalClient::new(grpc::channel(address, None).unwrap())
}

/// A terminal with these lines, and the other end of its Ctrl-C.
fn terminal(lines: &[&str]) -> (Terminal<Vec<u8>>, mpsc::Sender<()>) {
    let (sender, receiver) = mpsc::channel(lines.len().max(1));
    for line in lines {
        sender.try_send(Ok::<_, io::Error>((*line).to_owned())).unwrap();
    }
    let (press, interrupts) = mpsc::channel(1);
    let terminal = Terminal { lines: receiver, interrupts, out: Vec::new(), interactive: false, printable: true };
    (terminal, press)
}

/// What is printed, and how it ended.
async fn talk(address: &str, lines: &[&str]) -> (String, Result<Exit, Fault>) {
    let (mut terminal, _press) = terminal(lines);
    let session = Session::new(client(address), "tiny".into(), &options(address));
    let ended = timeout(LONG, terminal.talk(session)).await.unwrap();
    (String::from_utf8(terminal.out).unwrap(), ended)
}

fn contents(request: &v1::ChatRequest) -> Vec<(&str, &str)> {
    request.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect()
}

#[tokio::test]
async fn each_line_is_a_turn_and_the_history_goes_with_it() {
    let echo = Echo::default();
    let (printed, ended) = talk(&serve(&echo).await, &["one", "", "two"]).await;
    assert_eq!(printed, "<one>\n<two>\n");
    assert_eq!(ended.unwrap(), Exit::Ok);
    let requests = echo.requests.lock().unwrap();
    let history = [("system", "be brief"), ("user", "one"), ("assistant", "<one>"), ("user", "two")];
    assert_eq!(contents(&requests[1]), history);
    assert_eq!((requests[0].model.as_str(), requests[0].sampling.as_ref().unwrap().seed), ("tiny", Some(7)));
}

#[tokio::test]
async fn reset_forgets_all_but_the_system_message_and_exit_ends() {
    let echo = Echo::default();
    let lines = ["one", "/reset", "/what", "/help", "two", "/exit", "three"];
    let (printed, _) = talk(&serve(&echo).await, &lines).await;
    assert_eq!(printed, "<one>\n<two>\n");
    assert_eq!(contents(&echo.requests.lock().unwrap()[1]), [("system", "be brief"), ("user", "two")]);
}

#[tokio::test]
async fn thoughts_and_escape_sequences_are_left_out() {
    let echo = Echo::default();
    let (printed, _) = talk(&serve(&echo).await, &["hm</think>\u{1b}]0;x\u{7}yes", "two"]).await;
    assert_eq!(printed, "<hm</think>]0;xyes>\n<two>\n");
    let requests = echo.requests.lock().unwrap();
    assert_eq!(contents(&requests[1])[2], ("assistant", "\u{1b}]0;x\u{7}yes>"));
}

#[tokio::test]
async fn ctrl_c_stops_an_answer_and_cancels_it() {
    let echo = Echo::default();
    let address = serve(&echo).await;
    let (mut terminal, press) = terminal(&["hang", "two"]);
    let session = Session::new(client(&address), "tiny".into(), &options(&address));
    let pressed = async {
        echo.begun.notified().await;
        press.send(()).await.unwrap();
        echo.dropped.notified().await;
    };
    let (ended, ()) = timeout(LONG, async { tokio::join!(terminal.talk(session), pressed) }).await.unwrap();
    ended.unwrap();
    assert!(String::from_utf8(terminal.out).unwrap().ends_with("<two>\n"));
}

#[tokio::test]
async fn ctrl_c_at_the_prompt_ends_well() {
    let (sender, lines) = mpsc::channel(1);
    let (press, interrupts) = mpsc::channel(1);
    press.try_send(()).unwrap();
    let mut terminal = Terminal { lines, interrupts, out: Vec::new(), interactive: true, printable: true };
    let session = Session::new(client("127.0.0.1:1"), "tiny".into(), &options("127.0.0.1:1"));
    assert_eq!(timeout(LONG, terminal.talk(session)).await.unwrap().unwrap(), Exit::Ok);
    drop(sender);
}

#[tokio::test]
async fn a_failure_ends_a_script_with_its_reason() {
    let (printed, ended) = talk(&serve(&Echo::default()).await, &["one", "fail", "two"]).await;
    assert_eq!(printed, "<one>\n");
    let fault = ended.unwrap_err();
    assert_eq!((fault.exit, fault.to_string().as_str()), (Exit::Data, "too long"));
}

#[tokio::test]
async fn the_model_is_the_first_or_the_one_named() {
    let grpc = serve(&Echo::default()).await;
    let asked = async |model: Option<&str>| {
        let served = Served { grpc: grpc.clone(), model: model.map(str::to_owned) };
        served.connect().await.map(|(_, model)| model.name)
    };
    assert_eq!(asked(None).await.unwrap(), "tiny");
    assert_eq!(asked(Some("large")).await.unwrap(), "large");
    let fault = asked(Some("x")).await.unwrap_err();
    assert!(fault.to_string().contains("tiny, large"), "{fault}");
}

#[tokio::test]
async fn nobody_there_is_said_with_the_address_and_what_to_do() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let grpc = listener.local_addr().unwrap().to_string();
    drop(listener);
    let fault = Served { grpc: grpc.clone(), model: None }.connect().await.unwrap_err();
    let text = fault.to_string();
    assert_eq!(fault.exit, Exit::Unavailable);
    assert!([&grpc, "hadal up", "--grpc"].iter().all(|part| text.contains(*part)), "{text}");
}

#[test]
fn the_flags_become_the_message() {
    use clap::Parser;
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }
    let cli = Cli::parse_from(["chat", "--temperature", "0", "--stop", "a", "--stop", "b", "--max-tokens", "9"]);
    let expected = v1::SamplingOptions {
        temperature: Some(0.0),
        stop: vec!["a".into(), "b".into()],
        max_tokens: Some(9),
        logit_bias: HashMap::new(),
        ..Default::default()
    };
    assert_eq!(cli.options.sampling.message(), expected);
}
