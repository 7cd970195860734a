//! A worker's connection: reads its reports until it ends, or the actor has given it up.

use std::time::Duration;

use hadal_coordinator_core::{ConnectionId, Event};
use hadal_proto::Malformed;
use hadal_proto::cluster as w;
use hadal_proto::cluster::worker_report::Report;
use tonic::{Status, Streaming};

use crate::actor::{Commands, Mailbox};
use crate::wire;

/// How long a worker may take to say who it is.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a worker's reports. Ends with the stream, or when the actor has given the worker up.
pub(crate) async fn read(
    mailbox: Mailbox,
    connection: ConnectionId,
    commands: Commands,
    mut reports: Streaming<w::WorkerReport>,
) {
    let Some(register) = first(&mut reports, &commands).await else { return };
    let worker = match wire::worker(&register) {
        Ok(worker) => worker,
        Err(error) => {
            tracing::warn!(worker = %register.worker_id, %error, "worker refused");
            return refuse(&commands, error.to_string()).await;
        }
    };
    let name = worker.id.clone();
    let Ok(given_up) = mailbox.attach(connection, Box::new(register), worker, commands.clone()).await else { return };
    tokio::select! {
        biased;
        () = given_up.cancelled() => return,
        end = reports_until_the_end(&mailbox, connection, &mut reports) => match end {
            End::Closed => tracing::info!(worker = %name, "worker's connection ended"),
            End::Malformed(error) => {
                tracing::warn!(worker = %name, %error, "worker's report refused");
                refuse(&commands, error.to_string()).await;
            }
        },
    }
    // The mailbox is gone only when the coordinator has ended, and with it the worker's registration.
    let _ = mailbox.event(Event::WorkerLost { connection }).await;
}

enum End {
    Closed,
    Malformed(Malformed),
}

async fn first(reports: &mut Streaming<w::WorkerReport>, commands: &Commands) -> Option<w::Register> {
    let first = tokio::time::timeout(REGISTER_TIMEOUT, reports.message()).await;
    match first {
        Ok(Ok(Some(w::WorkerReport { report: Some(Report::Register(register)) }))) => Some(register),
        Ok(Ok(Some(_))) => {
            refuse(commands, "a worker's first report must be its registration".to_owned()).await;
            None
        }
        Ok(Ok(None) | Err(_)) => None,
        Err(_) => {
            refuse(commands, format!("no registration came within {} s", REGISTER_TIMEOUT.as_secs())).await;
            None
        }
    }
}

async fn reports_until_the_end(
    mailbox: &Mailbox,
    connection: ConnectionId,
    reports: &mut Streaming<w::WorkerReport>,
) -> End {
    loop {
        let report = match reports.message().await {
            Ok(Some(w::WorkerReport { report: Some(report) })) => report,
            // A kind of report that a later release sends.
            Ok(Some(_)) => continue,
            Ok(None) | Err(_) => return End::Closed,
        };
        let event = match event(connection, report) {
            Ok(Some(event)) => event,
            Ok(None) => continue,
            Err(error) => return End::Malformed(error),
        };
        if mailbox.event(event).await.is_err() {
            return End::Closed;
        }
    }
}

/// What a report is for the core, if anything.
fn event(connection: ConnectionId, report: Report) -> Result<Option<Event>, Malformed> {
    Ok(Some(match report {
        Report::Register(register) => {
            let problem = format!("worker {} has registered on this connection already", register.worker_id);
            return Err(Malformed { field: "report", problem });
        }
        Report::Heartbeat(heartbeat) => Event::Heartbeat { connection, heartbeat: wire::heartbeat(heartbeat)? },
        Report::CacheEvents(events) => Event::CacheEvents { connection, events: wire::events(&events)? },
        Report::CacheSnapshot(snapshot) => Event::CacheSnapshot { connection, chunk: wire::snapshot(&snapshot)? },
        Report::Leave(_) => Event::Leaving { connection },
        Report::CommandRefused(w::CommandRefused { term, term_highest }) => {
            tracing::warn!(term, term_highest, "a worker refuses a command, since it knows of a later leader");
            return Ok(None);
        }
    }))
}

/// Tells the worker why, if it still reads.
async fn refuse(commands: &Commands, reason: String) {
    let refused = w::coordinator_command::Command::Refused(w::Refused { reason, again: false });
    let command: Result<_, Status> = Ok(w::CoordinatorCommand { command: Some(refused) });
    // A worker that reads nothing must not keep this task: it learns that the stream ended.
    let _ = commands.try_send(command);
}
