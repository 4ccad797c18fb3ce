//! A default request for a volume. A test changes the fields that matter to it.

use crate::volume::access::CapacityRange;
use crate::volume::create::Create;
use crate::volume::id::VolumeName;
use crate::volume::parameters::Attributes;

/// An empty volume of this name and capacity, in a directory that is named after it, with default attributes.
pub(crate) fn volume(name: &str, bytes: i64) -> Create {
    Create {
        name: VolumeName::parse("name", name).unwrap(),
        sub_dir: None,
        capacity: CapacityRange::new(bytes, 0).unwrap(),
        asked: Attributes::default(),
        defaults: Attributes::default(),
        mount_options: Vec::new(),
        origin: None,
        kubernetes: None,
    }
}
