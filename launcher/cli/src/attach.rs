//! `bottle attach`: another terminal on the command of a bottle.

use bottle_backend::{Input, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::args::AttachArgs;
use crate::backend::with_remains;
use crate::failure::{Failure, say};
use crate::leave::{Orders, Remains};
use crate::live;
use crate::sizes::follow_size;
use crate::terminal::{self, RawMode};

/// How it ended.
enum End {
    /// The operator left.
    Detached,
    /// The command's output ended.
    Output,
}

/// Attaches until the command ends or the detach keys are typed; the command goes on in the latter case.
pub async fn attach(args: &AttachArgs) -> Result<u8, Failure> {
    let keys = keys(&args.detach_keys)?;
    let backend = with_remains().await?;
    let live = live::one(&*backend, args.name.as_deref()).await?;
    let seen = backend.observe(Role::Guest, &live.guest).await?;
    // Without a terminal the engine would end the command's input with ours.
    if !seen.applied.tty || !terminal::is_interactive() {
        return Err(Failure::Usage(format!(
            "expected {} to have been launched on a terminal and one to be here, found {}",
            live.slug,
            if seen.applied.tty {
                "none here"
            } else {
                "that it has none"
            }
        )));
    }
    let orders = Orders::listen(Remains::default())?;
    let streams = backend.attach(Role::Guest, &live.guest, true).await?;
    let raw = RawMode::enter()?;
    let sizes = follow_size(backend.clone(), live.guest.clone(), None)?;
    let feeding = tokio::spawn(feed(streams.stdin, keys));
    let mut stdout = streams.stdout;
    let output = async {
        let mut out = tokio::io::stdout();
        // Nobody who reads: the command goes on for its launcher.
        let _ = tokio::io::copy(&mut stdout, &mut out).await;
        let _ = out.flush().await;
    };
    let end = tokio::select! {
        () = output => End::Output,
        detached = feeding => match detached {
            Ok(true) => End::Detached,
            // Our input has ended; its output is for us all the same.
            _ => { wait_for_end(&*backend, &live.guest).await; End::Output }
        },
        _ = orders.first() => End::Detached,
    };
    sizes.abort();
    drop(raw);
    if matches!(end, End::Detached) {
        say(&format!("detached; {} goes on", live.slug));
    }
    Ok(0)
}

async fn wait_for_end(backend: &dyn bottle_backend::Backend, guest: &str) {
    // One that is gone has ended.
    let _ = backend.wait(Role::Guest, guest).await;
}

/// Our input to the command; `true`: the detach keys were typed.
async fn feed(mut guest: Input, keys: Vec<u8>) -> bool {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 4096];
    let mut detector = Detector::new(keys);
    loop {
        match stdin.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => {
                let (pass, detached) = detector.take(&buffer[..count]);
                if guest.write_all(&pass).await.is_err() || guest.flush().await.is_err() {
                    return false;
                }
                if detached {
                    return true;
                }
            }
        }
    }
}

/// Finds the keys in what is typed, and holds back what may be their beginning.
struct Detector {
    keys: Vec<u8>,
    matched: usize,
}

impl Detector {
    fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// What goes on to the command, and whether all keys were typed.
    fn take(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (typed.to_vec(), false);
        }
        let mut pass = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.matched > 0 && *byte != self.keys[self.matched] {
                pass.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (pass, true);
                }
            } else {
                pass.push(*byte);
            }
        }
        (pass, false)
    }
}

/// `ctrl-p,ctrl-q`: keys with commas between them, each a character or `ctrl-` and a letter.
fn keys(text: &str) -> Result<Vec<u8>, Failure> {
    let key = |part: &str| -> Option<u8> {
        match (part.strip_prefix("ctrl-").map(str::as_bytes), part.as_bytes()) {
            (Some([letter @ (b'a'..=b'z' | b'@'..=b'_')]), _) => Some(letter & 0x1f),
            (None, [byte]) if byte.is_ascii_graphic() => Some(*byte),
            _ => None,
        }
    };
    let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
    keys.ok_or_else(|| {
        Failure::Usage(format!(
            "--detach-keys: expected keys such as `ctrl-p,ctrl-q`, found `{text}`"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read() {
        for (text, expected) in [
            ("ctrl-p,ctrl-q", Some(vec![16, 17])),
            ("ctrl-^,x", Some(vec![30, b'x'])),
            ("a", Some(vec![b'a'])),
            ("", None),
            ("ctrl-", None),
            ("ctrl-pq", None),
            ("a,,b", None),
        ] {
            assert_eq!(keys(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn keys_are_found_over_reads_and_what_only_began_like_them_goes_on() {
        let mut detector = Detector::new(vec![16, 17]);
        assert_eq!(detector.take(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(detector.take(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(detector.take(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(detector.take(b"\x11rest"), (Vec::new(), true));
        assert_eq!(
            Detector::new(Vec::new()).take(b"\x10\x11"),
            (b"\x10\x11".to_vec(), false)
        );
    }
}
