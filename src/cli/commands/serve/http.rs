//! Connections: so many and no more, each with time limits, and an end that waits for answers.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::TcpListener;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use anyhow::Context;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::sync::{Notify, Semaphore};
use tokio_io_timeout::TimeoutStream;

use super::app::App;
use super::router;
use crate::cli::terminal::signals;

/// Connections at a time; others wait in the system's queue.
const MOST_CONNECTIONS: usize = 512;
/// A request's head is there within this time, and a connection without requests is closed.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// A client that reads nothing of its answer for so long is gone.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Most bytes of a head.
const MOST_HEAD_BYTES: usize = 64 << 10;

/// Answers connections until SIGTERM or SIGINT, and then those that are there.
pub fn serve(listener: TcpListener, app: &Arc<App>) -> anyhow::Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build();
    let runtime = runtime.context("cannot start the server")?;
    runtime.block_on(accept(listener, app))
}

async fn accept(listener: TcpListener, app: &Arc<App>) -> anyhow::Result<()> {
    let address = listener.local_addr()?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let end = Arc::new(Notify::new());
    let ended = Arc::clone(&end);
    signals::on_next_end(move || ended.notify_one());
    let mut end = pin!(end.notified());
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    app.log.line(format!("listening on http://{address}"));
    loop {
        let mut next = pin!(async {
            let place = Arc::clone(&connections).acquire_owned().await;
            (place, listener.accept().await)
        });
        let next = poll_fn(|context| match end.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => next.as_mut().poll(context).map(Some),
        });
        let (stream, peer, place) = match next.await {
            None => break,
            Some((place, Ok((stream, peer)))) => (stream, peer, place),
            Some((_, Err(error))) => {
                // Most likely there are no more files to be had: other connections have to end.
                app.log.line(format!("cannot accept a connection: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true); // slower without, and that is all
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIME));
        let app = Arc::clone(app);
        let service = service_fn(move |request| {
            let app = Arc::clone(&app);
            async move { Ok::<_, Infallible>(router::answer(&app, peer, request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(MOST_HEAD_BYTES)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await; // whatever ends it, nobody is left to tell
            drop(place);
        });
    }
    drop(listener);
    app.log.line("ending: no new requests".into());
    graceful.shutdown().await;
    Ok(())
}
