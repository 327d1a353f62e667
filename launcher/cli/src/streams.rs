//! Joins the operator's standard streams with the guest's, byte for byte.

use bottle_backend::{Input, Output, Streams};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const BUFFER: usize = 32 * 1024;

/// The joined streams.
pub struct Joined {
    stdin: JoinHandle<()>,
    output: JoinHandle<()>,
    /// Told when nobody reads the operator's side of the output any more.
    pub deaf: oneshot::Receiver<()>,
}

/// Joins them.
pub fn join(streams: Streams) -> Joined {
    let (tell, deaf) = oneshot::channel();
    Joined {
        stdin: tokio::spawn(feed(streams.stdin)),
        output: tokio::spawn(both(streams.stdout, streams.stderr, tell)),
        deaf,
    }
}

impl Joined {
    /// Waits until everything that the guest wrote is written, and stops reading for it.
    pub async fn finish(self) {
        // A task that panicked has written what it could.
        let _ = self.output.await;
        self.stdin.abort();
    }
}

/// Our standard input to the guest; its end is the guest's end of input.
async fn feed(mut guest: Input) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; BUFFER];
    loop {
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                let sent = guest.write_all(&buffer[..count]).await;
                // A guest that closed its input: what comes now is for nobody.
                if sent.is_err() || guest.flush().await.is_err() {
                    return;
                }
            }
        }
    }
    // When the guest has ended already there is nobody to tell.
    let _ = guest.shutdown().await;
}

async fn both(stdout: Output, stderr: Output, tell: oneshot::Sender<()>) {
    let deaf = move || {
        // The receiver is gone when the command has ended already.
        let _ = tell.send(());
    };
    tokio::join!(
        copy(stdout, tokio::io::stdout(), deaf),
        // A lost standard error ends nothing: shells do not end a program for it either.
        copy(stderr, tokio::io::stderr(), || {}),
    );
}

/// Copies until the end. When it cannot be written any more, `deaf` is told once, and the rest is read all the same: a
/// guest must not hang on a full pipe while it is being ended.
async fn copy(mut from: Output, mut to: impl AsyncWrite + Unpin, deaf: impl FnOnce()) {
    let mut buffer = vec![0; BUFFER];
    let mut deaf = Some(deaf);
    while let Ok(count) = from.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        if deaf.is_none() {
            continue;
        }
        if (to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err())
            && let Some(deaf) = deaf.take()
        {
            deaf();
        }
    }
}
