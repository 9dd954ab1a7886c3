//! Any bytes as a request of the kernel's, in the three parts that a ring brings it in.
#![no_main]
use forelog::mount::wire::{Call, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&fixed, rest)) = bytes.split_first() else { return };
    let (header, rest) = rest.split_at(rest.len().min(40));
    let (op, payload) = rest.split_at(rest.len().min(128));
    let _ = decode(header, op, payload);
    // And with the length that goes with it, so that the rest is looked at.
    let mut header = header.to_vec();
    let Some(length) = header.get_mut(..4) else { return };
    length.copy_from_slice(&(40 + u32::from(fixed) + payload.len() as u32).to_ne_bytes());
    let Ok(r) = decode(&header, op, payload) else { return };
    match r.call {
        Call::Lookup { name } | Call::Remove { name, .. } => assert!(!name.contains(&0)),
        Call::Rename { name, to_name, .. } => assert!(name.len() + to_name.len() + 2 <= payload.len()),
        Call::Setxattr { name, value, .. } => assert!(name.len() + value.len() < payload.len()),
        _ => {}
    }
});
