//! The status of a driver as text for a person.

use crate::export::progress::Bytes;
use crate::nfs::text::one_line;
use crate::server::status::{Call, Export, Failure, Lock, Mounts, Server, Space, Status, Work};

pub(super) fn print(status: &Status) -> String {
    let Status { version, driver, serves, state, at, started, left_out, .. } = status;
    let mut text = format!("csi-nfs {version}, driver {driver}, serves {}\n", serves.join(" and "));
    text += &format!("{state} since {started}; this is of {at}\n");
    section(&mut text, "servers", &status.servers, server);
    section(&mut text, "exports", &status.exports, export);
    section(&mut text, "mounts on this node", &status.mounts, mounts);
    section(&mut text, "calls under way", &status.calls, call);
    section(&mut text, "copies and other long work", &status.work, work);
    section(&mut text, "locks waited for", &status.locks, lock);
    section(&mut text, "last failures", &status.failures, failure);
    if *left_out > 0 {
        text += &format!("\n{left_out} more entries are left out\n");
    }
    text
}

fn section<T>(text: &mut String, heading: &str, entries: &[T], line: fn(&T) -> String) {
    *text += &format!("\n{heading}:");
    if entries.is_empty() {
        *text += " none\n";
        return;
    }
    text.push('\n');
    for entry in entries {
        *text += &format!("  {}\n", one_line(&line(entry)));
    }
}

fn server(Server { server, port, address, error, round_trip_seconds, since, checked }: &Server) -> String {
    let when = format!("since {since}, checked {checked}");
    match (address, error) {
        (Some(address), _) => {
            let took = round_trip_seconds.map_or_else(String::new, |took| format!(" in {:.1} ms", took * 1000.0));
            format!("{server} port {port}: answers at {address}{took}, {when}")
        }
        (None, error) => {
            format!("{server} port {port}: DOES NOT ANSWER, {when}: {}", error.as_deref().unwrap_or_default())
        }
    }
}

fn export(export: &Export) -> String {
    let mut parts = Vec::new();
    let by = if export.client == "own" { " by the driver's own client" } else { "" };
    parts.extend(export.version.as_ref().map(|version| format!("version {version}{by}")));
    let features = [("clone", export.clone), ("xattrs", export.xattrs), ("ACLs", export.acls)];
    for (name, found) in features {
        parts.extend(found.map(|found| format!("{name} {}", if found { "yes" } else { "no" })));
    }
    parts.push(format!("locks {}", if export.locks { "shared" } else { "of this process only" }));
    parts.extend(export.space.as_ref().map(space));
    parts.extend(export.snapshot_bytes.map(|bytes| format!("snapshots use {}", Bytes(bytes as f64))));
    parts.push(format!("{} in the trash", export.trash));
    format!("{}: {}", export.export, parts.join(", "))
}

fn space(Space { bytes, free_bytes, inodes, free_inodes, seconds }: &Space) -> String {
    let inodes = match inodes {
        0 => String::new(),
        inodes => format!(" and {free_inodes} of {inodes} inodes"),
    };
    format!("{} of {}{inodes} free {seconds} s ago", Bytes(*free_bytes as f64), Bytes(*bytes as f64))
}

fn mounts(Mounts { server, version, fallback, volumes }: &Mounts) -> String {
    let lower = if fallback == "true" { ", lower than wanted" } else { "" };
    format!("{server}: {volumes} volumes, version {version}{lower}")
}

fn call(Call { method, volume, server, seconds }: &Call) -> String {
    let on = if server.is_empty() { String::new() } else { format!(" on {server}") };
    format!("{seconds:.1} s: {method} {volume}{on}")
}

fn work(work: &Work) -> String {
    let Work { kind, on, name, of, waits_for, progress, seconds, .. } = work;
    let of = if of.is_empty() { String::new() } else { format!(" of {}", of.join(" ")) };
    let far = waits_for.as_ref().map_or_else(|| progress.clone(), |what| format!("waits for {what}"));
    format!("{seconds:.0} s: {kind} {name}{of} on {on}: {far}")
}

fn lock(Lock { export, part, holder, seconds }: &Lock) -> String {
    format!("{seconds:.1} s: {part} on {export}, held by {holder}")
}

fn failure(Failure { at, method, volume, code, message, seconds }: &Failure) -> String {
    format!("{at} {method} {volume}: {code} after {seconds:.1} s: {message}")
}
