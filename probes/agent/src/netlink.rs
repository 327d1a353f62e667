//! Netlink messages by hand (netlink(7), rtnetlink(7)).

use std::io::{self, Read as _};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

/// Families.
pub const ROUTE: i32 = 0;
pub const AUDIT: i32 = 9;
pub const NETFILTER: i32 = 12;
/// Types of audit messages.
pub const AUDIT_GET: u16 = 1000;
pub const AUDIT_USER: u16 = 1005;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const ERROR: u16 = 2;
/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;
const DONE: u16 = 3;

/// A netlink socket. Sending without an address goes to the kernel.
pub fn open(family: i32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(family)))?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok(socket)
}

/// A message; `flags` besides `NLM_F_REQUEST`.
pub fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut message = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((REQUEST | flags).to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend_from_slice(body);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

/// An attribute, padded.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut attribute = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend_from_slice(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// Makes one change and waits for the kernel's answer to it.
pub fn change(family: i32, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    send_and_confirm(family, &message(kind, flags | ACK, 1, body))
}

/// Sends messages of which the last one that asks for it is acknowledged.
pub fn send_and_confirm(family: i32, messages: &[u8]) -> io::Result<()> {
    let mut socket = open(family)?;
    socket.send(messages)?;
    let mut answer = [0; 8192];
    let length = socket.read(&mut answer)?;
    for (kind, body) in Messages(&answer[..length]) {
        if kind == ERROR {
            let code = body
                .get(..4)
                .map_or(-libc::EPROTO, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
            return if code == 0 {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(-code))
            };
        }
    }
    Ok(())
}

/// Sends an audit message. (Without the capability the kernel answers EPERM, or ECONNREFUSED outside of its first namespace.)
pub fn audit_message(kind: u16) -> io::Result<()> {
    change(AUDIT, kind, 0, if kind == AUDIT_USER { b"bottle-probe\0" } else { b"" })
}

/// Indices of all interfaces, by a dump of links.
pub fn interfaces() -> io::Result<Vec<i32>> {
    /// `RTM_GETLINK`, and the type of its answers.
    const GET_LINK: u16 = 18;
    const NEW_LINK: u16 = 16;
    let mut socket = open(ROUTE)?;
    socket.send(&message(GET_LINK, DUMP, 1, &[0; 16]))?;
    let mut found = Vec::new();
    let mut answer = vec![0; 32 << 10];
    loop {
        let length = socket.read(&mut answer)?;
        for (kind, body) in Messages(&answer[..length]) {
            match kind {
                NEW_LINK => found.extend(body.get(4..8).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]))),
                DONE | ERROR => return Ok(found),
                _ => {}
            }
        }
        if length == 0 {
            return Ok(found);
        }
    }
}

/// Type and body of each message.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.get(..16)?;
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let body = self.0.get(16..length)?;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_an_interface() {
        assert!(interfaces().expect("dumps").contains(&1));
    }

    #[test]
    fn refusals_are_reported() {
        // An address for an interface that does not exist.
        let body = [2, 32, 0, 0, 0xff, 0xff, 0xff, 0x7f];
        assert!(change(ROUTE, 20, 0, &body).is_err());
        assert_eq!(attribute(1, b"abc"), [7, 0, 1, 0, b'a', b'b', b'c', 0]);
    }
}
