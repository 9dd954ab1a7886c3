use super::entry::slot_for_test;
use super::*;

#[test]
fn commands_are_laid_out_as_the_kernel_reads_them() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let e = command(file.as_fd(), COMMIT_AND_FETCH, 0x0102_0304_0506_0708, 0x0a0b, Some(77)).user_data(9);
    // SAFETY: 128 plain bytes.
    let raw = unsafe { std::mem::transmute::<squeue::Entry128, [u8; 128]>(e) };
    assert_eq!(raw[0], 46, "IORING_OP_URING_CMD");
    assert_eq!(raw[4..8], file.as_raw_fd().to_ne_bytes());
    assert_eq!(raw[8..12], COMMIT_AND_FETCH.to_ne_bytes());
    assert_eq!(raw[16..24], 77u64.to_ne_bytes());
    assert_eq!(raw[32..40], 9u64.to_ne_bytes());
    assert_eq!(raw[56..64], 0x0102_0304_0506_0708u64.to_ne_bytes());
    assert_eq!(raw[64..66], 0x0a0bu16.to_ne_bytes());
}

#[test]
fn an_answer_keeps_the_number_of_its_request() {
    let mut slot = slot_for_test(b"abc");
    assert_eq!(slot.payload(), b"abc");
    slot.answer_mut()[..2].copy_from_slice(b"ok");
    let shared = slot.shared_for_test();
    slot.commit(0, 2);
    assert_eq!(shared.take_answered(), [1]);
    let slot = Slot::new(shared.clone(), 1);
    let (h, _, payload) = slot.request();
    assert_eq!(h[..8], [18, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(payload, b"ok");
    drop(slot);
    assert_eq!(shared.take_answered(), [1], "dropped unanswered: EIO");
    let slot = Slot::new(shared.clone(), 1);
    assert_eq!(slot.request().0[..8], [16, 0, 0, 0, 251, 255, 255, 255]);
    assert_eq!(slot.payload(), b"");
    slot.commit(0, 0);
}

#[test]
fn a_ring_of_no_connection_is_refused() {
    let Ok(mut ring) = Ring::new(&[0, 1], 3, 131_072) else {
        eprintln!("no io_uring here: not tested");
        return;
    };
    assert!(ring.bytes_max() >= 6 * 131_072);
    let file = std::fs::File::open("/proc/self/status").unwrap();
    assert!(ring.register(file.as_fd()).is_err());
    assert!(ring.run(|_| panic!("nothing is registered")).is_err());
}

#[test]
fn a_stop_is_heard() {
    let Ok(mut ring) = Ring::new(&[0], 1, 4096) else { return };
    ring.device = Some(std::fs::File::open("/dev/null").unwrap().into());
    let stopper = ring.stopper();
    let t = std::thread::spawn(move || {
        ring.own()?;
        ring.run(|_| ())
    });
    std::thread::sleep(std::time::Duration::from_millis(20));
    stopper.stop();
    assert_eq!(t.join().unwrap().unwrap(), Ended::Stopped);
}
