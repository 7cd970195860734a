//! The KV plane over TCP, with TLS on both sides where it is configured. A connection says Hello within the handshake
//! time or is closed; after that it belongs to the owner of its lease.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hadal_shell::tls::Tls;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::connector::{BoxFuture, Connector, Expect, Fetch, Incoming, Offer, Offered, Outgoing, Timeouts};
use crate::error::{OnError, Refusal, TransferError};
use crate::frame::{Frame, FrameError, VERSION, frame_bytes_max};
use crate::lease::Leases;
use crate::link::{Link, Stream};
use crate::receive::ReceiveLeg;
use crate::send::SendLeg;

/// Connections that may be in their handshake at once; more wait in the listener's backlog.
const HANDSHAKES_MAX: usize = 256;

/// What the TCP backend needs.
pub struct TcpConfig {
    /// What peers are told, `host:port`.
    pub address: String,
    /// This process.
    pub us: Expect,
    /// Limits of waits.
    pub timeouts: Timeouts,
    /// Secures both directions; none for plain TCP.
    pub tls: Option<Tls>,
    /// Told of refused and broken handshakes.
    pub on_error: OnError,
}

type Table = Leases<oneshot::Sender<Box<dyn Outgoing>>>;

/// The KV plane over TCP.
#[derive(Clone)]
pub struct Tcp {
    config: Arc<TcpConfig>,
    leases: Arc<Mutex<Table>>,
}

impl Tcp {
    /// Neither listens nor connects yet; see [`Tcp::serve`].
    pub fn new(config: TcpConfig) -> Self {
        Self { config: Arc::new(config), leases: Arc::new(Mutex::new(Leases::new())) }
    }

    /// Takes connections until the future is dropped.
    pub async fn serve(self, listener: TcpListener) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let mut tasks = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = tasks.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    let this = self.clone();
                    tasks.spawn(async move {
                        if let Err(error) = this.welcome(stream).await {
                            tracing::warn!(%error, kind = error.kind().name(), "KV connection refused");
                            (this.config.on_error)(error.kind());
                        }
                        drop(permit);
                    });
                }
                // Out of descriptors, most likely: waiting a moment is all that helps.
                Err(error) => {
                    tracing::warn!(%error, "cannot take KV connections");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn leases(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held; a poisoned table would still be whole.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn welcome(&self, stream: TcpStream) -> Result<(), TransferError> {
        let until = Instant::now() + self.config.timeouts.handshake;
        let late = |_| TransferError::Timeout("no Hello came");
        let _ = stream.set_nodelay(true);
        let stream: Box<dyn Stream> = match &self.config.tls {
            None => Box::new(stream),
            Some(tls) => {
                let accept = TlsAcceptor::from(tls.server_config()).accept(stream);
                Box::new(timeout_at(until, accept).await.map_err(late)??)
            }
        };
        let mut link = Link::new(stream, frame_bytes_max(0));
        let hello = match timeout_at(until, link.read()).await.map_err(late)? {
            Ok(Frame::Hello(hello)) => hello,
            Ok(_) => return Err(TransferError::Protocol("Hello must come first".into())),
            Err(error) => {
                if let TransferError::Frame(FrameError::Version { .. }) = error {
                    let reason = error.to_string();
                    link.farewell(&Frame::Refuse { refusal: Refusal::Version, reason }).await;
                }
                return Err(error);
            }
        };
        let claimed = self.leases().claim(&hello, &self.config.us, Instant::now());
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(refused) => {
                let (refusal, reason) = (refused.refusal, refused.reason);
                link.farewell(&Frame::Refuse { refusal, reason: reason.clone() }).await;
                return Err(TransferError::Refused { refusal, reason });
            }
        };
        link.queue(&Frame::Welcome { version: VERSION });
        link.flush(until).await?;
        let leg = SendLeg::new(link, claimed.deadline, self.config.timeouts.stall);
        // An owner that has gone meanwhile drops the leg, which closes the connection.
        let _ = claimed.owner.send(Box::new(leg));
        Ok(())
    }

    async fn connect(&self, fetch: &Fetch) -> Result<ReceiveLeg, TransferError> {
        let Timeouts { connect, handshake, stall } = self.config.timeouts;
        let until = fetch.deadline.min(Instant::now() + connect);
        let failed = |problem: String| TransferError::Connect { address: fetch.address.clone(), problem };
        let late = |_| failed(format!("no answer within {connect:?}"));
        let stream = timeout_at(until, TcpStream::connect(&fetch.address)).await.map_err(late)?;
        let stream = stream.map_err(|e| failed(e.to_string()))?;
        let _ = stream.set_nodelay(true);
        let stream: Box<dyn Stream> = match &self.config.tls {
            None => Box::new(stream),
            Some(tls) => {
                let host = fetch.address.rsplit_once(':').map_or(fetch.address.as_str(), |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = tls.server_name(host).map_err(|e| failed(e.to_string()))?;
                let tls = TlsConnector::from(tls.client_config()).connect(name, stream);
                let tls = timeout_at(until, tls).await.map_err(late)?;
                Box::new(tls.map_err(|e| failed(e.to_string()))?)
            }
        };
        let limit = frame_bytes_max(usize::try_from(self.config.us.page_bytes_max()).unwrap_or(usize::MAX));
        ReceiveLeg::open(Link::new(stream, limit), self.config.us.clone(), fetch, (handshake, stall)).await
    }
}

impl Connector for Tcp {
    fn address(&self) -> String {
        self.config.address.clone()
    }

    fn offer(&self, offer: Offer) -> Offered {
        let (owner, arrives) = oneshot::channel();
        self.leases().offer(&offer, owner);
        let this = self.clone();
        Offered::new(arrives, offer.deadline, move || this.leases().withdraw(offer.lease))
    }

    fn fetch(&self, fetch: Fetch) -> BoxFuture<'_, Result<Box<dyn Incoming>, TransferError>> {
        Box::pin(async move {
            let leg = self.connect(&fetch).await?;
            Ok(Box::new(leg) as Box<dyn Incoming>)
        })
    }
}
