//! HTTP/1.1 connections to one server, plain or with TLS. An idle one is used again; there are never more than requests.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::sample::Failure;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server and the connections to it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Server {
    host: Arc<str>,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    idle: Arc<Mutex<Vec<SendRequest<String>>>>,
}

/// An answer whose body is still to be read.
pub(super) struct Answered {
    pub(super) response: Response<Incoming>,
    connection: SendRequest<String>,
}

fn failed(error: &dyn std::error::Error) -> Failure {
    let mut message = error.to_string();
    if let Some(source) = error.source() {
        message = format!("{message}: {source}");
    }
    Failure::new("connection", message)
}

impl Server {
    /// The server of a URL; with `https` it must show a certificate that `tls` accepts.
    pub(super) fn new(url: &Uri, tls: Option<Arc<rustls::ClientConfig>>) -> Result<Self, String> {
        let host = url.host().ok_or("it has no host")?.trim_matches(['[', ']']);
        let tls = match tls {
            None => None,
            Some(config) => {
                let name =
                    ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no name of a host"))?;
                Some((TlsConnector::from(config), name))
            }
        };
        let port = url.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        Ok(Self { host: host.into(), port, tls, idle: Arc::default() })
    }

    /// Sends a request on an idle connection or a new one.
    ///
    /// # Errors
    /// When the server cannot be reached, or ends the connection.
    pub(super) async fn send(&self, request: Request<String>) -> Result<Answered, Failure> {
        let mut request = request;
        // A server may have ended a connection that was idle; then the request was not sent at all.
        while let Some(mut connection) = self.idle() {
            if connection.ready().await.is_err() {
                continue;
            }
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(Answered { response, connection }),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(failed(&error.into_error())),
                },
            }
        }
        let mut connection = self.connect().await?;
        let response = connection.send_request(request).await.map_err(|error| failed(&error))?;
        Ok(Answered { response, connection })
    }

    fn idle(&self) -> Option<SendRequest<String>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Keeps the connection of an answer that was read to its end.
    pub(super) fn keep(&self, answered: Answered) {
        let connection = answered.connection;
        if !connection.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }

    async fn connect(&self) -> Result<SendRequest<String>, Failure> {
        let connect = async {
            let stream = TcpStream::connect((&*self.host, self.port)).await.map_err(|error| failed(&error))?;
            stream.set_nodelay(true).map_err(|error| failed(&error))?;
            match &self.tls {
                None => handshake(stream).await,
                Some((tls, name)) => {
                    handshake(tls.connect(name.clone(), stream).await.map_err(|error| failed(&error))?).await
                }
            }
        };
        let late = || Failure::new("connection", format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()));
        timeout(CONNECT_TIMEOUT, connect).await.map_err(|_| late())?
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<SendRequest<String>, Failure> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    // It ends when the sender is dropped; what breaks it, the request is told.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

impl Answered {
    /// The next bytes of the body; none at its end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) async fn bytes(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let body = self.response.body_mut();
            let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(failed(&error)),
                // Trailers say nothing here.
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// The whole body as text, up to so many bytes.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) async fn text(&mut self, bytes_max: usize) -> Result<String, Failure> {
        let mut all = Vec::new();
        while all.len() < bytes_max {
            let mut next = pin!(self.bytes());
            let Some(bytes) = next.as_mut().await? else { break };
            all.extend_from_slice(&bytes);
        }
        Ok(String::from_utf8_lossy(&all).into_owned())
    }
}
