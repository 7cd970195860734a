//! A standby's own connection to the leader. When a process dies, the system closes its connections and refuses new
//! ones, which tells of it at once; a process that hangs, a machine or a network that is lost say nothing, and for those
//! the lease is there.

use std::io::ErrorKind;
use std::time::Duration;

use hadal_coordinator_core::Leader;
use hadal_proto::cluster as w;
use hadal_proto::cluster::coordinator_client::CoordinatorClient;
use hadal_shell::tls::Tls;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a question may take before it counts as unanswered.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What became of the leader's process.
enum Word {
    /// Nobody can tell.
    Unknown,
    /// It has ended, or another process has its address.
    Gone,
}

/// Resolves when the leader's process has certainly ended.
pub(super) async fn gone(leader: Leader, tls: Option<Tls>) {
    let mut pause = PAUSE_MIN;
    loop {
        // Opened anew each time, so that nothing that was said before is waited for.
        let heard = listen(&leader, tls.as_ref(), &mut pause).await;
        if let Word::Gone = heard {
            return;
        }
        if let Word::Gone = dial(&leader.address).await {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Listens to the leader until the connection ends.
async fn listen(leader: &Leader, tls: Option<&Tls>, pause: &mut Duration) -> Word {
    // What is no address cannot be watched; the lease will have to do.
    let Ok(channel) = hadal_shell::grpc::channel(&leader.address, tls) else { return Word::Unknown };
    let mut client = CoordinatorClient::new(channel);
    let opened = timeout(PATIENCE, async {
        let mut views = client.leader(w::LeaderRequest {}).await?.into_inner();
        let first = views.message().await?;
        Ok::<_, tonic::Status>((views, first))
    });
    let Ok(Ok((mut views, mut next))) = opened.await else { return Word::Unknown };
    while let Some(view) = next {
        if is_over(leader, &view) {
            return Word::Gone;
        }
        *pause = PAUSE_MIN;
        next = views.message().await.unwrap_or_default();
    }
    Word::Unknown
}

/// Whether whoever answers at the leader's address knows that the leadership is over: it leads a later one, or follows
/// this one or a later one, as a process does that was started there again. One that has not heard of it yet may be about
/// to learn that it leads.
fn is_over(leader: &Leader, view: &w::LeaderView) -> bool {
    if view.leads { view.term > leader.term.0 } else { view.term >= leader.term.0 }
}

/// Whether anything listens at an address.
async fn dial(address: &str) -> Word {
    match timeout(PATIENCE, TcpStream::connect(address)).await {
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) => {
            Word::Gone
        }
        _ => Word::Unknown,
    }
}
