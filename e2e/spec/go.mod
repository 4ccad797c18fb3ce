// Pins the CSI specification, with which e2e/tests/spec.rs compares proto/csi.proto. No Go code is built.
module csi-nfs/e2e/spec

go 1.24

require github.com/container-storage-interface/spec v1.13.0
