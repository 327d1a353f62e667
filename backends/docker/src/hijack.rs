//! Streams of a container: an HTTP request on the engine's socket that turns into a byte stream both ways.
//!
//! Done by hand because the client library guesses from the bytes whether a stream is framed (a guest on a terminal could
//! print something that looks like a frame), and does not end standard input when its writer is dropped.

use std::io::Cursor;
use std::path::Path;
use std::time::Duration;

use bottle_backend::{BackendError, BackendErrorKind, Output, Streams, patient};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::oneshot;

use crate::call::{failed, refused, timed_out};

/// Bytes of each output stream that wait for their reader.
const BUFFER: usize = 64 * 1024;
/// Longest error message read from the engine.
const MESSAGE: usize = 64 * 1024;

/// Streams, and a signal that fires when the output has ended.
pub(crate) struct Hijacked {
    pub(crate) streams: Streams,
    pub(crate) ended: oneshot::Receiver<()>,
}

/// Posts `body` to `path` and takes the connection over. With `tty` the output is one stream, without it is framed.
pub(crate) async fn hijack(
    call: &str,
    socket: &Path,
    path: &str,
    body: Bytes,
    tty: bool,
    limit: Duration,
) -> Result<Hijacked, BackendError> {
    let limit = patient(limit);
    let upgraded = tokio::time::timeout(limit, upgrade(call, socket, path, body)).await;
    let (stream, early) = upgraded.map_err(|_| timed_out(call, limit))??;
    tracing::debug!(call, "engine");
    let (from, to) = stream.into_split();
    let (stdout, stdout_end) = tokio::io::duplex(BUFFER);
    let (stderr, stderr_end) = tokio::io::duplex(BUFFER);
    let (signal, ended) = oneshot::channel();
    let mut from: From = Cursor::new(early).chain(from);
    tokio::spawn(async move {
        let mut outputs = Outputs {
            stdout: Some(stdout),
            stderr: Some(stderr),
        };
        let outcome = if tty {
            outputs.copy_raw(&mut from).await
        } else {
            outputs.copy_framed(&mut from).await
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a container's output ended early");
        }
        drop(outputs);
        let _ = signal.send(());
    });
    let stderr: Output = if tty {
        Box::pin(tokio::io::empty())
    } else {
        Box::pin(stderr_end)
    };
    // Dropping or shutting down the owned write half shuts down that direction of the socket.
    let streams = Streams {
        stdin: Box::pin(to),
        stdout: Box::pin(stdout_end),
        stderr,
    };
    Ok(Hijacked { streams, ended })
}

type From = tokio::io::Chain<Cursor<Bytes>, OwnedReadHalf>;

async fn upgrade(call: &str, socket: &Path, path: &str, body: Bytes) -> Result<(UnixStream, Bytes), BackendError> {
    let unreachable = |error: &dyn std::error::Error| failed(call, BackendErrorKind::Unreachable, error.to_string());
    let stream = UnixStream::connect(socket).await.map_err(|error| unreachable(&error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(&error))?;
    let connection = tokio::spawn(connection.with_upgrades());
    let request = http::Request::post(path)
        .header(http::header::HOST, "docker")
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::CONNECTION, "Upgrade")
        .header(http::header::UPGRADE, "tcp")
        .body(Full::new(body))
        .map_err(|error| failed(call, BackendErrorKind::Unexpected, error.to_string()))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| unreachable(&error))?;
    if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status().as_u16();
        let message = Limited::new(response.into_body(), MESSAGE)
            .collect()
            .await
            .map(|body| body.to_bytes());
        connection.abort();
        return Err(refused(call, status, &engine_message(&message.unwrap_or_default())));
    }
    let upgraded = hyper::upgrade::on(response)
        .await
        .map_err(|error| unreachable(&error))?;
    let parts = upgraded.downcast::<TokioIo<UnixStream>>().map_err(|_| {
        failed(
            call,
            BackendErrorKind::Unexpected,
            "the upgraded connection is not the socket that was opened",
        )
    })?;
    Ok((parts.io.into_inner(), parts.read_buf))
}

fn engine_message(body: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|value| value.get("message")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned())
}

/// Where output goes; an end whose reader is gone is `None`, and what comes for it is thrown away.
struct Outputs {
    stdout: Option<DuplexStream>,
    stderr: Option<DuplexStream>,
}

impl Outputs {
    async fn copy_raw(&mut self, from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
        let mut buffer = vec![0; BUFFER / 2];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            pass(&mut self.stdout, &buffer[..read]).await;
        }
    }

    /// Frames: a byte that names the stream, three zeros, the length (32 bits, big end first), the bytes.
    async fn copy_framed(&mut self, from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
        let mut buffer = vec![0; BUFFER / 2];
        let mut header = [0; 8];
        loop {
            if from.read(&mut header[..1]).await? == 0 {
                return Ok(());
            }
            from.read_exact(&mut header[1..]).await?;
            let mut left = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
            while left > 0 {
                let most = left.min(buffer.len());
                let read = from.read(&mut buffer[..most]).await?;
                if read == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                left -= read;
                match header[0] {
                    0 | 1 => pass(&mut self.stdout, &buffer[..read]).await,
                    2 => pass(&mut self.stderr, &buffer[..read]).await,
                    other => return Err(std::io::Error::other(format!("a frame of unknown stream {other}"))),
                }
            }
        }
    }
}

async fn pass(to: &mut Option<DuplexStream>, bytes: &[u8]) {
    if let Some(open) = to
        && open.write_all(bytes).await.is_err()
    {
        *to = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn demux(input: &[u8]) -> (std::io::Result<()>, Vec<u8>, Vec<u8>) {
        let (stdout, mut stdout_end) = tokio::io::duplex(BUFFER);
        let (stderr, mut stderr_end) = tokio::io::duplex(BUFFER);
        let mut outputs = Outputs {
            stdout: Some(stdout),
            stderr: Some(stderr),
        };
        let outcome = outputs.copy_framed(&mut &input[..]).await;
        drop(outputs);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        stdout_end.read_to_end(&mut out).await.unwrap();
        stderr_end.read_to_end(&mut err).await.unwrap();
        (outcome, out, err)
    }

    #[tokio::test]
    async fn frames_go_to_their_streams() {
        let input = b"\x01\0\0\0\0\0\0\x02ab\x02\0\0\0\0\0\0\x01c\x01\0\0\0\0\0\0\x01d";
        let (outcome, out, err) = demux(input).await;
        outcome.unwrap();
        assert_eq!((out.as_slice(), err.as_slice()), (b"abd".as_slice(), b"c".as_slice()));
    }

    #[tokio::test]
    async fn a_cut_frame_and_an_unknown_stream_are_errors() {
        assert!(demux(b"\x01\0\0\0\0\0\0\x05ab").await.0.is_err());
        assert!(demux(b"\x01\0\0").await.0.is_err());
        assert!(demux(b"\x09\0\0\0\0\0\0\x01a").await.0.is_err());
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_does_not_stop_the_other() {
        let (stdout, stdout_end) = tokio::io::duplex(BUFFER);
        drop(stdout_end);
        let mut outputs = Outputs {
            stdout: Some(stdout),
            stderr: None,
        };
        let long = [b"\x01\0\0\0\0\x01\0\0".as_slice(), &[b'x'; 65536]].concat();
        outputs.copy_framed(&mut long.as_slice()).await.unwrap();
    }
}
