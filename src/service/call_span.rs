//! The span of the current call. The service records the volume and the server in it, because a layer around the
//! services cannot read the message of a call.

use std::sync::{Arc, OnceLock};

use tracing::Span;

use crate::nfs::source::Source;

/// The maximum size in bytes of an identifier or a server's name in the log. A caller may send megabytes.
const NAME_MAX: usize = 256;

/// What a call is about, as far as its service has said it.
#[derive(Debug, Default)]
pub struct About {
    volume: OnceLock<String>,
    server: OnceLock<String>,
}

impl About {
    /// The ID of the volume, or the name for a new one; empty if the call names none.
    pub fn volume(&self) -> &str {
        self.volume.get().map_or("", String::as_str)
    }

    /// The NFS server; empty if it is not known.
    pub fn server(&self) -> &str {
        self.server.get().map_or("", String::as_str)
    }
}

tokio::task_local! {
    /// What the current call is about. The layer around the services sets it, and reads it while the call runs.
    pub static ABOUT: Arc<About>;
}

/// Records the ID of the volume of the current call.
pub fn volume(id: &str) {
    record("volume", id, |about| &about.volume);
}

/// Records the NFS server of the current call.
pub fn server(name: &str) {
    record("server", name, |about| &about.server);
}

/// Records the NFS server of the current call, and its export.
pub fn export(source: &Source) {
    server(source.server.as_str());
    Span::current().record("export", tracing::field::display(source.export()));
}

fn record(field: &str, text: &str, of: fn(&About) -> &OnceLock<String>) {
    let text = &text[..text.floor_char_boundary(NAME_MAX)];
    Span::current().record(field, text);
    // Outside a call of the server, as in tests of a service, nobody asks.
    let _ = ABOUT.try_with(|about| of(about).set(text.to_owned()));
}
