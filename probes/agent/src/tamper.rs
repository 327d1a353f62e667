//! Action `Tamper`: changes of the guest's own network and resolver configuration. Neither success nor failure is a finding:
//! what is sent afterwards decides.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;

use probe_spec::{Tamper, world};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netlink::{self, attribute, message};
use crate::notes::{Done, Run, errno};
use crate::syscall;

/// Address that is added (RFC 2544, for tests of network devices).
const ADDED: [u8; 4] = [198, 18, 7, 7];
/// `NLM_F_CREATE` and `NLM_F_APPEND`.
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// Tries to change something, on every interface where it is about interfaces.
pub fn tamper(run: &Run, what: Tamper) -> Done {
    match what {
        Tamper::Nftables => note(run, "flush nftables", flush_nftables()),
        Tamper::Iptables => note(run, "flush iptables", flush_iptables()),
        Tamper::Bpf => {
            // Packets of a control group, and packets of a device (linux/bpf.h).
            for (name, kind) in [("cgroup-skb", 8), ("xdp", 6)] {
                note(run, &format!("load a {name} program"), syscall::load_bpf(kind));
            }
        }
        Tamper::ResolvConf => {
            let text = format!("nameserver {}\n", world::OUTSIDE_RESOLVER);
            note(run, "overwrite /etc/resolv.conf", fs::write("/etc/resolv.conf", text));
        }
        Tamper::Hosts => note(run, "append to /etc/hosts", add_hosts()),
        Tamper::Route | Tamper::Address | Tamper::HardwareAddress | Tamper::TrafficControl => on_interfaces(run, what),
    }
    Ok(())
}

fn note<T>(run: &Run, what: &str, result: io::Result<T>) {
    match result {
        Ok(_) => run.trace(format!("{what}: done")),
        Err(error) => run.trace(format!("{what}: {}", errno(&error))),
    }
}

fn add_hosts() -> io::Result<()> {
    let text = format!("{0} {1}\n{0} {2}\n", world::SINK_ADDRESS, world::ALLOWED, world::DENIED);
    OpenOptions::new()
        .append(true)
        .open("/etc/hosts")?
        .write_all(text.as_bytes())
}

fn on_interfaces(run: &Run, what: Tamper) {
    let interfaces = match netlink::interfaces() {
        Ok(interfaces) => interfaces,
        Err(error) => return run.trace(format!("list interfaces: {}", errno(&error))),
    };
    for interface in interfaces {
        for (name, kind, flags, body) in changes(what, interface) {
            note(
                run,
                &format!("{name} on interface {interface}"),
                netlink::change(netlink::ROUTE, kind, flags, &body),
            );
        }
    }
}

/// Name, message type, flags and body of each change to an interface (rtnetlink(7)).
fn changes(what: Tamper, interface: i32) -> Vec<(&'static str, u16, u16, Vec<u8>)> {
    let index = interface.to_ne_bytes();
    match what {
        Tamper::Route => [(2, "default route"), (10, "default route (IPv6)")]
            .into_iter()
            .map(|(family, name)| {
                // struct rtmsg: main table, boot protocol, link scope, unicast; RTA_OIF.
                let mut body = vec![family, 0, 0, 0, 254, 3, 253, 1, 0, 0, 0, 0];
                body.extend(attribute(4, &index));
                (name, 24, CREATE | APPEND, body)
            })
            .collect(),
        Tamper::Address => {
            // struct ifaddrmsg; IFA_LOCAL and IFA_ADDRESS.
            let mut body = vec![2, 24, 0, 0];
            body.extend(index);
            body.extend(attribute(2, &ADDED));
            body.extend(attribute(1, &ADDED));
            vec![("address", 20, CREATE, body)]
        }
        Tamper::HardwareAddress => {
            // struct ifinfomsg; IFLA_ADDRESS with a locally administered address.
            let mut body = vec![0; 4];
            body.extend(index);
            body.extend([0; 8]);
            body.extend(attribute(1, &[2, 0, 0, 0, 0, 7]));
            vec![("hardware address", 19, 0, body)]
        }
        Tamper::TrafficControl => {
            // struct tcmsg: handle 0, parent TC_H_ROOT; TCA_KIND.
            let mut body = vec![0; 4];
            body.extend(index);
            body.extend([0; 4]);
            body.extend(u32::MAX.to_ne_bytes());
            body.extend([0; 4]);
            body.extend(attribute(1, b"pfifo\0"));
            vec![("queueing discipline", 36, CREATE, body)]
        }
        _ => Vec::new(),
    }
}

/// Deletes all tables: a batch with one unspecific `NFT_MSG_DELTABLE`.
fn flush_nftables() -> io::Result<()> {
    const ACK: u16 = 4;
    const NFTABLES: u16 = 10;
    let [high, low] = NFTABLES.to_be_bytes();
    let messages = [
        message(0x10, 0, 1, &[0, 0, high, low]),
        message(NFTABLES << 8 | 2, ACK, 2, &[0, 0, 0, 0]),
        message(0x11, 0, 3, &[0, 0, high, low]),
    ];
    netlink::send_and_confirm(netlink::NETFILTER, &messages.concat())
}

/// Replaces the filter table by one that accepts everything (linux/netfilter_ipv4/ip_tables.h).
fn flush_iptables() -> io::Result<()> {
    /// `IPT_SO_GET_INFO` and `IPT_SO_SET_REPLACE` have the same number.
    const OPTION: i32 = 64;
    /// `struct ipt_getinfo`, and where it has the number of entries.
    const INFO_BYTES: usize = 84;
    const INFO_ENTRIES: usize = 76;
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    let mut info = table_name().to_vec();
    info.resize(INFO_BYTES, 0);
    syscall::get_option(socket.as_fd(), libc::IPPROTO_IP, OPTION, &mut info)?;
    let counters = info[INFO_ENTRIES..]
        .first_chunk()
        .map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    syscall::replace_table(socket.as_fd(), OPTION, &accept_everything(counters), counters)?;
    Ok(())
}

/// Where `struct ipt_replace` ends before the pointer to the old counters, which `syscall` fills in.
pub const REPLACE_POINTER: usize = 88;

fn table_name() -> [u8; 32] {
    let mut name = [0; 32];
    name[..6].copy_from_slice(b"filter");
    name
}

/// `struct ipt_replace` with three accepting policies and the final error entry.
fn accept_everything(counters: u32) -> Vec<u8> {
    const POLICY_BYTES: u32 = 152;
    const ERROR_BYTES: u32 = 176;
    let mut replace = table_name().to_vec();
    // Input, forward and output; four entries.
    for number in [0xe, 4, 3 * POLICY_BYTES + ERROR_BYTES] {
        replace.extend(u32::to_ne_bytes(number));
    }
    for _hook_entries_then_underflows in 0..2 {
        for offset in [0, 0, POLICY_BYTES, 2 * POLICY_BYTES, 0] {
            replace.extend(u32::to_ne_bytes(offset));
        }
    }
    replace.extend(counters.to_ne_bytes());
    replace.extend([0; 8]);
    for _ in 0..3 {
        // Verdict `-NF_ACCEPT - 1`.
        replace.extend(entry(b"", &(-2i32).to_ne_bytes(), POLICY_BYTES));
    }
    let mut error = b"ERROR".to_vec();
    error.resize(30, 0);
    replace.extend(entry(b"ERROR", &error, ERROR_BYTES));
    replace
}

/// `struct ipt_entry` that matches everything, and its target.
fn entry(target: &[u8], data: &[u8], length: u32) -> Vec<u8> {
    const ENTRY_BYTES: u16 = 112;
    let mut entry = vec![0; 88];
    entry.extend(ENTRY_BYTES.to_ne_bytes());
    entry.extend((length as u16).to_ne_bytes());
    entry.resize(ENTRY_BYTES.into(), 0);
    entry.extend((length as u16 - ENTRY_BYTES).to_ne_bytes());
    entry.extend_from_slice(target);
    entry.resize(usize::from(ENTRY_BYTES) + 32, 0);
    entry.extend_from_slice(data);
    entry.resize(length as usize, 0);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    // Tampering itself is not tried here: it would change the machine that runs the tests.

    #[test]
    fn a_replacement_has_the_kernels_shape() {
        let replace = accept_everything(7);
        assert_eq!(replace.len(), 96 + 3 * 152 + 176);
        assert_eq!(replace[84..88], 7u32.to_ne_bytes());
        assert_eq!(REPLACE_POINTER + 8, 96);
        assert_eq!(replace[96 + 88..96 + 92], [112, 0, 152, 0]);
    }

    #[test]
    fn changes_name_their_interface() {
        for what in [
            Tamper::Route,
            Tamper::Address,
            Tamper::HardwareAddress,
            Tamper::TrafficControl,
        ] {
            for (_, _, _, body) in changes(what, 0x0102_0304) {
                assert!(
                    body.windows(4).any(|window| window == 0x0102_0304i32.to_ne_bytes()),
                    "{what:?}"
                );
            }
        }
    }
}
