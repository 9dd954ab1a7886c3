use super::*;
use crate::testing::{Dice, Plug, SimDisk};
use crate::types::ClientId;

const KIB: u32 = 1024;

fn pool() -> Pool {
    let limits = PoolLimits {
        capacity: 4096 * KIB as u64,
        segment_min: 64 * KIB,
        segment_max: 1024 * KIB,
        segment_static: 256 * KIB,
    };
    let plug = Arc::new(Plug::new());
    Pool::new(Arc::new(SimDisk::new(plug, limits.capacity * 2)), 7, limits, 1)
}

fn whole(p: &Pool) {
    let c = p.counts();
    assert_eq!(c.allocated_bytes, c.busy_bytes + c.free_bytes + c.reserved_bytes, "{c:?}");
    assert!(c.allocated_bytes <= p.limits.capacity, "{c:?}");
}

/// A reservation refused for want of room used to lose what others had reserved, until the log
/// had no room for the drain's own records.
#[test]
fn a_refused_reservation_takes_nothing_from_others() {
    let p = pool();
    let shared = Owner::Shared;
    (0..4).for_each(|_| assert!(p.reserve(shared, 1024 * KIB).expect("there is room")));
    for _ in 0..4 {
        assert!(p.reserve(shared, 64 * KIB).is_err());
    }
    assert_eq!(p.counts().reserved, 4);
    whole(&p);
    assert!(p.take(shared, 64 * KIB, 0, Class::System).is_ok());
}

/// Another program fills the log's device: the headroom is there all the same.
#[test]
fn the_headroom_is_on_the_disk_before_it_is_needed() {
    let limits = pool().limits;
    let plug = Arc::new(Plug::new());
    let disk = Arc::new(SimDisk::new(plug, 4 * 64 * KIB as u64 + 256 * KIB as u64));
    let p = Pool::new(disk, 7, limits, 1);
    p.fill_spare().expect("there is room");
    let shared = Owner::Shared;
    assert!(p.take(shared, 256 * KIB, 0, Class::Data).is_ok());
    assert!(matches!(p.take(shared, 256 * KIB, 0, Class::Data), Err(TakeError::Full)));
    let taken = |class| (0..9).take_while(|_| p.take(shared, 64 * KIB, 0, class).is_ok()).count();
    assert_eq!((taken(Class::Meta), taken(Class::System), taken(Class::System)), (2, 2, 0));
    whole(&p);
}

#[test]
fn every_byte_is_in_use_or_free_or_reserved() {
    for seed in 0..50 {
        let (p, mut dice) = (pool(), Dice::new(seed));
        let mut open = Vec::new();
        for _ in 0..300 {
            let size = (64 * KIB) << dice.below(5);
            let owner = match dice.below(3) {
                0 => Owner::Shared,
                n => Owner::Client(ClientId(n as u32)),
            };
            match dice.below(7) {
                6 => drop(p.fill_spare()),
                0 | 1 => drop(p.reserve(owner, size)),
                2 => p.release(owner, size),
                3 => p.trim(dice.below(p.limits.capacity)),
                4 => {
                    let class = [Class::Data, Class::Meta, Class::System][dice.below(3) as usize];
                    open.extend(p.take(owner, size, 0, class));
                }
                _ if open.is_empty() => {}
                _ => p.recycled(open.swap_remove(dice.below(open.len() as u64) as usize)),
            }
            whole(&p);
        }
    }
}

#[test]
fn a_flood_leaves_an_eighth_to_the_others() {
    let limits = pool().limits;
    let most = limits.limit(Class::Data);
    assert_eq!(limits.limit_for(Class::Data, most / 2, 2), most);
    assert_eq!(limits.limit_for(Class::Data, most / 2 + 1, 2), most - most / 8);
    assert_eq!(limits.limit_for(Class::Data, most / 4 + 1, 4), most - most / 8);
    // Alone it may not take all either: who comes next finds room.
    assert_eq!(limits.limit_for(Class::Data, most / 2 + 1, 1), most - most / 8);
    assert_eq!(limits.limit_for(Class::Meta, most, 2), limits.limit(Class::Meta));
}
