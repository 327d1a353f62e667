//! Names to addresses, over UDP with TCP behind it.
//!
//! Written on `hickory-proto` rather than on a full resolver: the bundle asks for A and AAAA of names that the policy
//! allows and nothing else, from name servers it was told; no search list, no hosts file, no recursion of its own.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bottle_policy::Name;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name as DnsName, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Longest time an answer is kept, whatever its TTL says.
const LONGEST_KEPT: Duration = Duration::from_secs(300);

/// Most names kept.
const KEPT: usize = 1024;

/// Most addresses taken from an answer.
const ADDRESSES: usize = 32;

/// Most CNAMEs followed within an answer.
const ALIASES: usize = 8;

/// Time for one question to one server.
const QUESTION: Duration = Duration::from_millis(1500);

/// How often the list of servers is gone through.
const ROUNDS: usize = 2;

/// Why a name has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist or has no address.
    #[error("the name has no address")]
    NoAddress,
    /// No server answered validly in time.
    #[error("no name server answered")]
    NoAnswer,
    /// There is no server to ask.
    #[error("no name server is configured")]
    NoServer,
}

/// The addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// IPv4 first, each family in the order of the answer; at least one.
    pub addresses: Arc<[IpAddr]>,
    /// Until when it may be used again; for a TTL of zero, the moment it arrived.
    pub until: Instant,
}

/// Asks name servers, and remembers for as long as they allow.
#[derive(Debug)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    limit: Duration,
    kept: Mutex<HashMap<Name, Answer>>,
}

impl Resolver {
    /// A resolver over the configured servers; a whole look-up takes at most `limit`.
    ///
    /// # Errors
    /// When `/etc/resolv.conf` is to be read and cannot be. A file without name servers is no error: every look-up fails.
    pub fn new(config: &bottle_policy::Resolver, limit: Duration) -> io::Result<Self> {
        let servers = match config {
            bottle_policy::Resolver::Servers(servers) => servers.clone(),
            bottle_policy::Resolver::System => name_servers(&std::fs::read_to_string("/etc/resolv.conf")?),
        };
        Ok(Self {
            servers,
            limit,
            kept: Mutex::default(),
        })
    }

    /// The servers that are asked.
    pub fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// The addresses of a name.
    ///
    /// # Errors
    /// When there is none, or no server answered.
    pub async fn lookup(&self, name: &Name) -> Result<Answer, ResolveError> {
        let now = Instant::now();
        if let Some(answer) = self.kept().get(name).filter(|answer| answer.until > now) {
            return Ok(answer.clone());
        }
        let answer = timeout(self.limit, self.ask(name))
            .await
            .map_err(|_| ResolveError::NoAnswer)??;
        if answer.until > Instant::now() {
            let mut kept = self.kept();
            if kept.len() >= KEPT {
                let now = Instant::now();
                kept.retain(|_, answer| answer.until > now);
            }
            if kept.len() < KEPT {
                kept.insert(name.clone(), answer.clone());
            }
        }
        Ok(answer)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<Name, Answer>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, name: &Name) -> Result<Answer, ResolveError> {
        if self.servers.is_empty() {
            return Err(ResolveError::NoServer);
        }
        let (v4, v6) = tokio::join!(
            self.question(name, RecordType::A),
            self.question(name, RecordType::AAAA)
        );
        let (v4, v6) = match (v4, v6) {
            // One family unanswered: go on with the other, as long as that has something.
            (Err(ResolveError::NoAnswer), Err(ResolveError::NoAnswer)) => return Err(ResolveError::NoAnswer),
            (v4, v6) => (v4, v6),
        };
        let unanswered = v4 == Err(ResolveError::NoAnswer) || v6 == Err(ResolveError::NoAnswer);
        let mut addresses = Vec::new();
        let mut ttl = LONGEST_KEPT;
        for (found, kept) in [v4, v6].into_iter().flatten() {
            addresses.extend(found);
            ttl = ttl.min(kept);
        }
        if addresses.is_empty() {
            return Err(if unanswered {
                ResolveError::NoAnswer
            } else {
                ResolveError::NoAddress
            });
        }
        Ok(Answer {
            addresses: addresses.into(),
            until: Instant::now() + ttl,
        })
    }

    /// One question to the servers in turn, until one answers it.
    async fn question(&self, name: &Name, kind: RecordType) -> Result<(Vec<IpAddr>, Duration), ResolveError> {
        let name = DnsName::from_ascii(format!("{name}.")).map_err(|_| ResolveError::NoAddress)?;
        let query = Query::query(name, kind);
        for _ in 0..ROUNDS {
            for server in &self.servers {
                match timeout(QUESTION, exchange(*server, &query)).await {
                    Ok(Ok(answer)) => match answer.metadata.response_code {
                        ResponseCode::NoError => return addresses(&answer, &query),
                        ResponseCode::NXDomain => return Err(ResolveError::NoAddress),
                        _ => {}
                    },
                    Ok(Err(error)) => tracing::debug!(%server, %error, "name server"),
                    Err(_) => tracing::debug!(%server, "name server does not answer"),
                }
            }
        }
        Err(ResolveError::NoAnswer)
    }
}

/// One question to one server; over TCP when the answer is cut short.
async fn exchange(server: SocketAddr, query: &Query) -> io::Result<Message> {
    let mut id = [0u8; 2];
    getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
    let mut message = Message::new(u16::from_be_bytes(id), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(query.clone());
    let bytes = message.to_vec().map_err(io::Error::other)?;
    let answer = over_udp(server, &bytes, &message).await?;
    if answer.metadata.truncation {
        over_tcp(server, &bytes, &message).await
    } else {
        Ok(answer)
    }
}

async fn over_udp(server: SocketAddr, bytes: &[u8], asked: &Message) -> io::Result<Message> {
    // A fresh socket a question: the kernel picks a random port, and `connect` drops what others send.
    let any: SocketAddr = if server.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0u8; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // An answer to another question may be a forgery; the real one may still come.
        if let Some(answer) = valid_answer(&buffer[..length], asked) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, bytes: &[u8], asked: &Message) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0u8; length.into()];
    stream.read_exact(&mut buffer).await?;
    valid_answer(&buffer, asked).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an answer"))
}

fn valid_answer(bytes: &[u8], asked: &Message) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let is_answer = answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.metadata.op_code == OpCode::Query
        && answer.queries == asked.queries;
    is_answer.then_some(answer)
}

/// The addresses in an answer that belong to the question: those of its name, or of the end of the chain of aliases that
/// begins there. Anything else in the packet is ignored.
fn addresses(answer: &Message, query: &Query) -> Result<(Vec<IpAddr>, Duration), ResolveError> {
    let mut name = query.name().clone();
    let mut ttl = u32::MAX;
    for _ in 0..=ALIASES {
        let mut found = Vec::new();
        let mut alias = None;
        for record in answer
            .answers
            .iter()
            .filter(|r| r.dns_class == DNSClass::IN && r.name == name)
        {
            match &record.data {
                RData::A(a) if query.query_type() == RecordType::A => found.push((IpAddr::V4(a.0), record.ttl)),
                RData::AAAA(a) if query.query_type() == RecordType::AAAA => found.push((IpAddr::V6(a.0), record.ttl)),
                RData::CNAME(target) => alias = Some((target.0.clone(), record.ttl)),
                _ => {}
            }
        }
        if !found.is_empty() {
            found.truncate(ADDRESSES);
            let ttl = found.iter().map(|(_, t)| *t).min().unwrap_or(0).min(ttl);
            let addresses = found.into_iter().map(|(address, _)| address).collect();
            return Ok((addresses, Duration::from_secs(ttl.into())));
        }
        let Some((target, alias_ttl)) = alias else {
            break;
        };
        ttl = ttl.min(alias_ttl);
        name = target;
    }
    Err(ResolveError::NoAddress)
}

/// The `nameserver` lines of a resolv.conf(5), at most three as the system's resolver takes.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        Some(SocketAddr::new(address.parse().ok()?, 53))
    };
    text.lines().filter_map(server).take(3).collect()
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
