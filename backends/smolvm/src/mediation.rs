//! smolvm's mediated egress: before it connects for a guest, it asks a listener of ours.
//!
//! Each connection to the listener is a question about one connection of the guest (smolvm's `docs/mediated-egress.md`,
//! version 2 of the protocol): who asks proves it with a token, says where to, and is answered with one byte. There is one
//! place that is allowed; where smolvm cannot reach it, the question's own connection becomes the guest's and is led there.
//! Whatever else comes, and silence, is no answer, and without an answer smolvm does not connect: the end of this process shuts
//! the machine in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use bottle_backend::patient;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};

use crate::relay::{Way, lead};

/// First bytes of a question.
const MAGIC: &[u8; 8] = b"SMOLMEG2";
const TOKEN: usize = 32;
/// Ids of the machine and of its parent, which are smolvm's own matter: there is a listener for each machine.
const IDS: usize = 32;
/// Most first bytes of the guest's that a question may have.
const MOST_PAYLOAD: usize = 8 * 1024;
/// How long a question may take to come.
const ASKED_WITHIN: Duration = Duration::from_secs(5);
/// Questions at a time.
const AT_ONCE: usize = 64;
/// Questions and connections that are led at a time.
const LED: usize = 1024;

/// smolvm is to connect itself.
const ALLOW: u8 = 0;
/// It is not to.
const DENY: u8 = 1;
/// The connection of the question is the guest's from here on.
const REDIRECT: u8 = 2;

/// Who decides about the connections of one machine, until it is dropped.
pub(crate) struct Decider {
    address: SocketAddr,
    token: String,
    serving: JoinHandle<()>,
}

impl Decider {
    /// Listens, with a fresh token. With a way, smolvm is not let connect to the proxy: the connection is led.
    pub(crate) async fn open(proxy: SocketAddrV4, way: Option<Way>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut token = [0; TOKEN];
        getrandom::fill(&mut token).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self {
            address: listener.local_addr()?,
            token: token.iter().map(|byte| format!("{byte:02x}")).collect(),
            serving: tokio::spawn(serve(listener, token, proxy, way)),
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What smolvm is to prove itself with, in hexadecimal digits.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }
}

impl Drop for Decider {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, token: [u8; TOKEN], proxy: SocketAddrV4, way: Option<Way>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut answering = JoinSet::new();
    loop {
        let accept = async {
            let place = places.clone().acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        tokio::select! {
            Some(_) = answering.join_next() => {}
            accepted = accept, if answering.len() < LED => match accepted {
                Some((place, Ok((asking, _)))) => {
                    answering.spawn(answer(asking, token, proxy, way.clone(), place));
                }
                Some((_, Err(_))) => tokio::time::sleep(Duration::from_millis(50)).await,
                None => return,
            }
        }
    }
}

async fn answer(
    mut asking: TcpStream,
    token: [u8; TOKEN],
    proxy: SocketAddrV4,
    way: Option<Way>,
    place: OwnedSemaphorePermit,
) {
    let question = tokio::time::timeout(patient(ASKED_WITHIN), question(&mut asking, &token));
    let (to, first) = match question.await {
        Ok(Ok(asked)) => asked,
        Ok(Err(error)) => return tracing::warn!(%error, "a question about a machine's connection is not understood"),
        Err(_) => return tracing::warn!("a question about a machine's connection did not come to its end"),
    };
    let is_allowed = to == SocketAddr::V4(proxy);
    if !is_allowed {
        tracing::debug!(%to, "a connection of a machine is refused");
    }
    let led = match way.filter(|_| is_allowed) {
        Some(way) => Some(way.connect().await),
        None => None,
    };
    // Who does not wait for the answer does not connect either.
    match led {
        None => {
            let _ = asking.write_all(&[if is_allowed { ALLOW } else { DENY }]).await;
        }
        Some(Err(error)) => {
            tracing::warn!(%error, "a connection of a machine does not reach its bundle");
            let _ = asking.write_all(&[DENY]).await;
        }
        Some(Ok(mut bundle)) => {
            drop(place);
            let begun = async {
                asking.set_nodelay(true)?;
                asking.write_all(&[REDIRECT]).await?;
                // smolvm has read them from the guest and does not say them again.
                bundle.write_all(&first).await
            };
            if begun.await.is_ok() {
                lead(asking, bundle).await;
            }
        }
    }
}

/// Reads a question to its end; where the guest wants to connect to, and the first bytes that it has sent there.
async fn question(from: &mut (impl AsyncRead + Unpin), token: &[u8; TOKEN]) -> io::Result<(SocketAddr, Vec<u8>)> {
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let mut magic = [0; MAGIC.len()];
    from.read_exact(&mut magic).await?;
    if magic != *MAGIC {
        return refuse("expected version 2 of smolvm's protocol, found another");
    }
    let mut theirs = [0; TOKEN];
    from.read_exact(&mut theirs).await?;
    if !bottle_policy::relay::is_same(&theirs, token) {
        return refuse("its token is not this machine's");
    }
    from.read_exact(&mut [0; IDS]).await?;
    let family = from.read_u8().await?;
    let port = from.read_u16().await?;
    let address = match family {
        4 => IpAddr::V4(Ipv4Addr::from_bits(from.read_u32().await?)),
        6 => IpAddr::V6(Ipv6Addr::from_bits(from.read_u128().await?)),
        _ => return refuse("expected an address of IPv4 or IPv6"),
    };
    let length = usize::from(from.read_u16().await?);
    if length > MOST_PAYLOAD {
        return refuse("it has more of the guest's bytes than it may");
    }
    let mut first = vec![0; length];
    from.read_exact(&mut first).await?;
    Ok((SocketAddr::new(address, port), first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: [u8; TOKEN] = [7; TOKEN];

    fn asked(magic: &[u8], token: &[u8], to: SocketAddr, payload: usize) -> Vec<u8> {
        let mut bytes = [magic, token, &[9; IDS]].concat();
        match to {
            SocketAddr::V4(to) => {
                bytes.push(4);
                bytes.extend(to.port().to_be_bytes());
                bytes.extend(to.ip().octets());
            }
            SocketAddr::V6(to) => {
                bytes.push(6);
                bytes.extend(to.port().to_be_bytes());
                bytes.extend(to.ip().octets());
            }
        }
        bytes.extend(u16::try_from(payload).unwrap().to_be_bytes());
        bytes.extend(vec![b'x'; payload]);
        bytes
    }

    async fn read(bytes: &[u8]) -> Result<SocketAddr, String> {
        let mut from = bytes;
        let read = question(&mut from, &OURS).await.map_err(|error| error.to_string())?;
        assert!(from.is_empty(), "{} bytes are left", from.len());
        assert!(read.1.iter().all(|byte| *byte == b'x'));
        Ok(read.0)
    }

    #[tokio::test]
    async fn questions_are_read_and_others_are_refused() {
        for to in ["10.213.4.2:8888", "[2001:db8::1]:443"].map(|to| to.parse().unwrap()) {
            for payload in [0, 1, MOST_PAYLOAD] {
                assert_eq!(read(&asked(MAGIC, &OURS, to, payload)).await, Ok(to));
            }
        }
        let to = "10.213.4.2:8888".parse().unwrap();
        let mut odd_family = asked(MAGIC, &OURS, to, 0);
        odd_family[MAGIC.len() + TOKEN + IDS] = 5;
        let mut one_bit = OURS;
        one_bit[TOKEN - 1] ^= 1;
        for (bytes, expected) in [
            (asked(b"SMOLMEG3", &OURS, to, 0), "version 2"),
            (asked(MAGIC, &one_bit, to, 0), "token"),
            (asked(MAGIC, &OURS, to, MOST_PAYLOAD + 1), "more of the guest"),
            (odd_family, "address"),
        ] {
            let error = read(&bytes).await.unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[tokio::test]
    async fn a_question_that_breaks_off_anywhere_is_none() {
        let whole = asked(MAGIC, &OURS, "10.213.4.2:8888".parse().unwrap(), 3);
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).await.is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_read_without_the_token(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = bytes;
            let begin = MAGIC.len().min(bytes.len());
            bytes[..begin].copy_from_slice(&MAGIC[..begin]);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let outcome = runtime.block_on(question(&mut bytes.as_slice(), &OURS));
            prop_assert!(outcome.is_err());
        }
    }

    /// Byte by byte, as a slow host may send it; then what is not allowed, and who has no token.
    #[tokio::test]
    async fn one_place_is_allowed() {
        let proxy: SocketAddrV4 = "10.213.4.2:8888".parse().unwrap();
        let decider = Decider::open(proxy, None).await.unwrap();
        assert_eq!(decider.token().len(), 2 * TOKEN);
        let token: Vec<u8> = (0..TOKEN)
            .map(|index| u8::from_str_radix(&decider.token()[2 * index..][..2], 16).unwrap())
            .collect();
        let address = decider.address();
        let answer = async |bytes: Vec<u8>| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            for byte in bytes {
                // Who is refused early does not read on.
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
            }
            let mut answer = Vec::new();
            // A refused one may be reset.
            let _ = stream.read_to_end(&mut answer).await;
            answer
        };
        assert_eq!(answer(asked(MAGIC, &token, proxy.into(), 5)).await, [ALLOW]);
        for other in [
            "10.213.4.2:8889",
            "10.213.4.3:8888",
            "127.0.0.1:8888",
            "[::ffff:10.213.4.2]:8888",
        ] {
            assert_eq!(
                answer(asked(MAGIC, &token, other.parse().unwrap(), 5)).await,
                [DENY],
                "{other}"
            );
        }
        assert_eq!(answer(asked(MAGIC, &OURS, proxy.into(), 5)).await, [0; 0]);
        drop(decider);
        tokio::task::yield_now().await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
