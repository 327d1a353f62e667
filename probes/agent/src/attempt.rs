//! From an [`Action`] to the code that attempts it.

use std::time::Duration;

use probe_spec::Action;

use crate::notes::{Done, NotIssued, Run};
use crate::{
    capability, dns, fetch, files, find, hardening, listen, machine, sockets, survive, sweep, talk, tamper, traffic,
};

/// Attempts an action; what it meets goes to the notes of `run`.
pub fn attempt(run: &Run, action: &Action) -> Done {
    match action {
        Action::Tcp { to, send, from } => traffic::tcp(run, to, send, from.as_deref()),
        Action::Udp { to, send, pad_to } => traffic::udp(run, to, send, *pad_to),
        Action::Icmp {
            to,
            raw,
            send,
            answer_is_finding,
        } => traffic::icmp(run, to, *raw, send, *answer_is_finding),
        Action::Dns {
            server,
            transport,
            name,
            qtype,
            answer_is_finding,
        } => dns::ask(run, server, *transport, name, *qtype, *answer_is_finding),
        Action::Talk { to, steps } => talk::talk(run, to, steps),
        Action::Sequence { actions } => actions.iter().try_for_each(|action| one_of_several(run, action)),
        Action::Repeat {
            times,
            pause_ms,
            action,
        } => repeat(run, *times, Duration::from_millis(*pause_ms), action),
        Action::Capability { capability } => capability::capability(run, capability),
        Action::Syscall { name } => hardening::forbidden_call(run, name),
        Action::NoNewPrivileges { helper } => hardening::no_new_privileges(run, *helper),
        Action::Descriptors { of } => hardening::descriptors(run, *of),
        Action::Fetch {
            url,
            env,
            connect_to,
            fields,
        } => fetch::fetch(run, url, env, connect_to.as_deref(), fields),
        Action::Sweep {
            to,
            first,
            last,
            send,
            declared,
            open_is_finding,
            handshakes,
        } => sweep::sweep(run, (to, *first, *last), send, declared, *open_is_finding, handshakes),
        Action::Tamper { what } => tamper::tamper(run, *what),
        Action::Find { place, needles, marker } => find::find(run, *place, needles, marker),
        Action::FindFiles { paths, marker } => files::find_files(run, paths, marker),
        Action::WriteEverywhere { text, below } => files::write_everywhere(run, text, below),
        Action::UnixSockets {
            protocol,
            paths,
            declared,
        } => sockets::unix_sockets(run, *protocol, paths, declared),
        Action::EngineApi { to, send } => sockets::engine_api(run, to, send),
        Action::Vsock { cid, first, last } => machine::vsock(run, *cid, *first, *last),
        Action::Devices { of, declared } => machine::devices(run, *of, declared),
        Action::WriteShare { how, directory } => machine::write_share(run, *how, directory),
        Action::Survive { how, text } => survive::survive(run, *how, text),
        Action::Listen { ports, addresses } => listen::listen(run, ports, addresses),
    }
}

/// As [`attempt`], once the case still has time.
fn one_of_several(run: &Run, action: &Action) -> Done {
    match run.is_over() {
        true => Err(NotIssued::CutOff("the next of several actions")),
        false => attempt(run, action),
    }
}

fn repeat(run: &Run, times: u32, pause: Duration, action: &Action) -> Done {
    for round in 0..times {
        if round > 0 {
            run.pause(pause);
        }
        one_of_several(run, action)?;
    }
    Ok(())
}
