use super::*;
use crate::config::Live;
use crate::control::client::{Connection, NoGateway, connect};
use crate::control::locate::Located;
use crate::control::series::Point;
use std::path::PathBuf;

struct Fake {
    umount_code: u8,
}

impl ControlTarget for Fake {
    fn status(&self) -> Status {
        Status { pid: 42, uptime_seconds: f64::NAN, ..Status::default() }
    }
    fn flush(
        &self,
        paths: &[Vec<u8>],
        deadline_ms: Option<u64>,
        progress: &mut dyn FnMut(Progress),
    ) -> Verdict {
        for bytes_left in [2, 1] {
            progress(Progress { bytes_left, ..Progress::default() });
        }
        match deadline_ms {
            Some(_) => Verdict::remains("late"),
            None => Verdict::done(format!("{} paths", paths.len())),
        }
    }
    fn record(&self, each: &mut dyn FnMut(SampleBatch) -> bool) -> Verdict {
        while each(SampleBatch::of(&[], 7)) {}
        Verdict::done("")
    }
    fn series(&self, minutes: bool, after: u64) -> Vec<SeriesPart> {
        let point = |number| Point { number, ..Point::default() };
        let part = |n| SeriesPart { names: vec![(n as u32, "p".into())], points: vec![point(n)] };
        if minutes { vec![] } else { vec![part(after + 1), part(after + 2)] }
    }
    fn set(&self, expected: &Live, wanted: &Live) -> Verdict {
        Verdict::done(format!("{} changes", expected.changes(wanted).len()))
    }
    fn queue(&self, limit: usize) -> QueueView {
        QueueView { files: limit as u64, ..QueueView::default() }
    }
    fn bump(&self, path: &[u8]) -> Verdict {
        Verdict::done(format!("{} bytes", path.len()))
    }
    fn umount(&self, _: Option<u64>, _: bool, _: &mut dyn FnMut(Progress)) -> Verdict {
        Verdict { code: self.umount_code, message: String::new() }
    }
}

/// Each test has a runtime directory of its own, the mount point itself.
fn started(umount_code: u8) -> (tempfile::TempDir, Server, Located) {
    let t = tempfile::tempdir().unwrap();
    let mountpoint = crate::sys::paths::canonical(t.path()).unwrap();
    let server = start(&mountpoint, umount_code).unwrap();
    let located = Located { mountpoint, place: Some(server.place.clone()), mount: None };
    (t, server, located)
}

fn start(mountpoint: &Path, umount_code: u8) -> io::Result<Server> {
    let place = Place::of(mountpoint, mountpoint);
    Server::start_at(place, mountpoint, Path::new("/log"), Arc::new(Fake { umount_code }))
}

fn ask(located: &Located, request: Request) -> (Vec<u64>, Reply) {
    let mut seen = Vec::new();
    let limit = Some(Duration::from_secs(10));
    let reply = connect(located).unwrap().call(&request, limit, &mut |p| seen.push(p.bytes_left)).unwrap();
    (seen, reply)
}

#[test]
fn answers_every_request() {
    let (_t, server, located) = started(2);
    assert_eq!(ask(&located, Request::Ping).1, Reply::Done { message: String::new(), leaving: false });
    let (_, Reply::Status(status)) = ask(&located, Request::Status) else { panic!() };
    assert_eq!((status.pid, status.uptime_seconds), (42, 0.0));
    let paths = vec![b"a".to_vec(), vec![0xff]];
    let (seen, reply) = ask(&located, Request::Flush { paths, timeout_ms: None });
    assert_eq!(seen, [2, 1]);
    assert_eq!(reply, Reply::Done { message: "2 paths".into(), leaving: false });
    let (_, reply) = ask(&located, Request::Flush { paths: vec![], timeout_ms: Some(1) });
    assert_eq!(reply, Reply::Refused { code: 3, message: "late".into(), leaving: false });
    let (_, reply) = ask(&located, Request::Umount { timeout_ms: None, no_wait: false });
    assert_eq!(reply, Reply::Refused { code: 2, message: String::new(), leaving: false });
    server.stop().unwrap();
    assert_eq!(connect(&located).unwrap_err(), NoGateway::None);
}

#[test]
fn series_come_in_parts() {
    let (_t, _server, located) = started(2);
    let all = connect(&located).unwrap().series(false, 7).unwrap();
    assert_eq!(all.points.iter().map(|p| p.number).collect::<Vec<_>>(), [8, 9]);
    assert_eq!(all.names.len(), 2);
    assert!(connect(&located).unwrap().series(true, 0).unwrap().points.is_empty());
}

#[test]
fn a_finished_umount_keeps_the_line_open_and_stop_does_not_wait_for_it() {
    let (_t, server, located) = started(0);
    let mut connection: Connection = connect(&located).unwrap();
    let request = Request::Umount { timeout_ms: None, no_wait: false };
    let reply = connection.call(&request, None, &mut |_| ()).unwrap();
    assert_eq!(reply, Reply::Done { message: String::new(), leaving: true });
    server.stop().unwrap();
    assert!(!connection.wait_for_end(Duration::from_millis(50)), "this process has not ended");
}

#[test]
fn garbage_is_refused_and_service_goes_on() {
    let (_t, server, located) = started(0);
    let socket: PathBuf = located.place.clone().unwrap().socket;
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(&[0xff; 64]).unwrap();
    match receive::<Reply>(&mut stream) {
        Ok(Reply::Refused { code: 2, message, .. }) => assert!(message.contains("bytes"), "{message}"),
        // The kernel resets a connection closed with bytes unread.
        Err(CodecError::Io(_)) => {}
        other => panic!("{other:?}"),
    }
    drop(UnixStream::connect(&socket).unwrap());
    assert!(matches!(ask(&located, Request::Ping).1, Reply::Done { .. }));
    drop(server);
}

#[test]
fn one_server_a_mount_point_and_stale_sockets_are_named() {
    let (_t, server, located) = started(0);
    let again = start(&located.mountpoint, 0);
    let e = again.err().unwrap();
    assert!(e.kind() == io::ErrorKind::AddrInUse && e.to_string().contains("pid"), "{e}");
    server.stop().unwrap();
    let place = located.place.clone().unwrap();
    drop(UnixListener::bind(&place.socket).unwrap());
    place.write_note(&Note { pid: 7, mountpoint: "m".into(), log_dir: "l".into() }).unwrap();
    let stale = NoGateway::Stale { pid: Some(7), log_dir: Some("l".into()) };
    assert_eq!(connect(&located).unwrap_err(), stale);
    start(&located.mountpoint, 0).unwrap().stop().unwrap();
}
