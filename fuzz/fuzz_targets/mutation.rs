//! Any bytes as the fields of a mutation, and as a set of extended attributes; what is read is written the same.
#![no_main]
use forelog::format::mutation::{Mutation, decode_xattrs, encode_xattrs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, body)) = bytes.split_first() else { return };
    if let Ok(m) = Mutation::decode(kind, body) {
        let mut out = Vec::new();
        m.encode(&mut out);
        assert_eq!(Mutation::decode(m.kind(), &out), Ok(m));
    }
    if let Ok(set) = decode_xattrs(body) {
        assert_eq!(decode_xattrs(&encode_xattrs(&set)), Ok(set));
    }
});
