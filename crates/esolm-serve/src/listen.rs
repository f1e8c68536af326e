//! Connections: bounded in number and time, and ended in good order.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep, timeout};

use crate::Limits;
use crate::connections::{Answering, Connection, Connections};
use crate::metrics::Metrics;

/// How often it is looked whether to end.
const LOOKS: Duration = Duration::from_millis(100);
/// Bytes of a request's head at most, and of what is read ahead.
const HEAD_BYTES: usize = 64 << 10;

/// Answers connections until `stop` is set, and then what is under way, within a limit.
pub async fn listen(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    metrics: &Metrics,
    stop: &AtomicBool,
) {
    let graceful = GracefulShutdown::new();
    let connections = Connections::new(limits.connections);
    while !stop.load(Ordering::SeqCst) {
        let stream = match timeout(LOOKS, listener.accept()).await {
            Ok(Ok((stream, _))) => stream,
            Ok(Err(_)) => {
                // Too many open files, or a connection that is gone already; the next one may do better.
                sleep(LOOKS).await;
                continue;
            }
            Err(_) => continue,
        };
        let Some(entered) = connections.enter() else {
            // Closed at once: its client is told, and the server holds nothing for it.
            metrics.count_refused();
            continue;
        };
        // Parts of a stream are small, and each is wanted at once.
        let _ = stream.set_nodelay(true);
        let io = TokioIo::new(Impatient::new(stream, limits.stalled));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(io, answers(router.clone(), entered.connection()));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let (mut connection, mut leaves) = (pin!(connection), pin!(entered.leaves()));
            poll_fn(|context| match leaves.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(()),
                // Whatever is wrong with a connection is its client's to see.
                Poll::Pending => connection.as_mut().poll(context).map(drop),
            })
            .await;
        });
    }
    drop(listener);
    let _ = timeout(limits.drain, graceful.shutdown()).await;
}

/// Answers the requests of a connection, which does not wait for one meanwhile.
fn answers(
    router: Router,
    connection: Arc<Connection>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Answering>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Answering>, Infallible>> + Send,
> {
    let service = TowerToHyperService::new(router);
    service_fn(move |request: Request<Incoming>| {
        let asked = connection.clone().is_asked();
        let answer = service.call(request);
        async move { Ok(answer.await?.map(|body| asked.answered_by(body))) }
    })
}

/// A connection that fails when its client takes nothing for so long.
struct Impatient {
    stream: TcpStream,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn new(stream: TcpStream, limit: Duration) -> Self {
        Self {
            stream,
            limit,
            waiting: None,
        }
    }

    fn within_limit<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(done) = poll(Pin::new(&mut self.stream), context) {
            self.waiting = None;
            return Poll::Ready(done);
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.within_limit(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.within_limit(context, |stream, context| {
            stream.poll_write_vectored(context, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.within_limit(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.within_limit(context, |stream, context| stream.poll_shutdown(context))
    }
}
