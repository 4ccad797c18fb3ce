//! The span of the current call. The service records the volume and the server in it, because a layer around the
//! services cannot read the message of a call.

use tracing::Span;

/// The maximum size in bytes of an identifier or a server's name in the log. A caller may send megabytes.
const NAME_MAX: usize = 256;

/// Records the ID of the volume of the current call.
pub fn volume(id: &str) {
    Span::current().record("volume", beginning(id));
}

/// Records the NFS server of the current call.
pub fn server(name: &str) {
    Span::current().record("server", beginning(name));
}

fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAME_MAX)]
}
