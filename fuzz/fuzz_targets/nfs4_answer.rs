#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| csi_nfs::testing::fuzz::nfs4_answer(data));
