//! One operation at a time on a part of an export, in this process and among controllers.
