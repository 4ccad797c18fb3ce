// Pins the CSI specification that proto/csi.proto is compared with (e2e/tests/spec.rs). No Go code is built.
module csi-nfs/e2e/spec

go 1.24

require github.com/container-storage-interface/spec v1.13.0
