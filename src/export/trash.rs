//! What was deleted is renamed into the trash and cleared in the background.
