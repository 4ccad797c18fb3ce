//! What processes do, for the message of a test that waits in vain.

use std::fs;
use std::path::Path;

/// The state and the kernel's stack of each thread of a process, and what it has open.
pub fn threads(pid: u32) -> String {
    let process = Path::new("/proc").join(pid.to_string());
    let read = |task: &Path, file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
    let tasks = fs::read_dir(process.join("task")).into_iter().flatten().flatten().map(|task| task.path());
    let told = tasks.map(|task| {
        let state = read(&task, "status").lines().filter(|line| line.starts_with("State")).collect::<String>();
        format!("{}: {state} in {}\n{}", task.display(), read(&task, "wchan"), read(&task, "stack"))
    });
    let open = fs::read_dir(process.join("fd")).into_iter().flatten();
    let open = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()).map(|path| format!("{}\n", path.display()));
    told.chain(open).collect()
}

/// The same of the calling process and its children, with the end of what each child wrote to its standard error, and
/// how much memory is left.
pub fn this_and_children() -> String {
    let me = std::process::id();
    let children = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        status.lines().any(|line| line == format!("PPid:\t{me}")).then(|| entry.file_name().to_str()?.parse().ok())?
    });
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default().lines().take(3).collect::<Vec<_>>().join(", ");
    let told = std::iter::once(me).chain(children).map(|pid| format!("{}{}", threads(pid), tail(pid)));
    told.chain([memory]).collect()
}

/// The last lines of the file that is a process's standard error.
fn tail(pid: u32) -> String {
    const LINES: usize = 40;
    let log = fs::read_to_string(format!("/proc/{pid}/fd/2")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(|line| format!("{line}\n")).collect()
}
