//! The span of the call that is being served: the service names the volume and the server in it, for a layer around the
//! services cannot see inside a message.

use tracing::Span;

/// Bytes of an identifier or a server's name in the log, at most: a caller may send megabytes.
const NAME_MAX: usize = 256;

/// Names the volume, by its ID, of the call that is being served.
pub fn volume(id: &str) {
    Span::current().record("volume", beginning(id));
}

/// Names the NFS server of the call that is being served.
pub fn server(name: &str) {
    Span::current().record("server", beginning(name));
}

fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAME_MAX)]
}
