//! What the levels have in common: delays that let everything come about within virtual seconds, and the volume that they work on.

use client::core::Call;
use journal::Geometry;
use replica::ReplicaConfig;
use wire::meta::{Operation, VolumePolicy};
use wire::{GroupId, Nanos};

use crate::random::Random;

/// Segments of 2^`bits` bytes.
pub(crate) fn geometry(random: &mut Random, bits: (u64, u64)) -> Geometry {
    Geometry::new(1 << random.between(bits.0, bits.1)).expect("a legal size")
}

/// Bytes of a store or log of so many segments.
pub(crate) fn device_bytes(geometry: Geometry, segments: u64) -> u64 {
    journal::DATA_START + u64::from(geometry.segment_bytes()) * segments
}

/// A group whose sessions, pins and garbage live for seconds, with a checkpoint after so many bytes of log.
pub(crate) fn replica(checkpoint_log_bytes: u64) -> ReplicaConfig {
    ReplicaConfig {
        session_ttl: 3 * Nanos::SECOND,
        keepalive: Nanos::SECOND,
        reclaim_delay: Nanos::SECOND,
        pin_ttl: 6 * Nanos::SECOND,
        memory_budget: 64 << 20,
        checkpoint_log_bytes,
        checkpoint_page_bytes: 8 << 10,
        orphan_interval: 5 * Nanos::SECOND,
        upkeep_interval: 200 * Nanos::MILLISECOND,
        delete_resend: Nanos::SECOND,
        ..ReplicaConfig::default()
    }
}

/// Makes the volume, before anything goes wrong.
pub(crate) fn create_volume(chunk_bytes: u64) -> Call {
    let chunk_bytes = u32::try_from(chunk_bytes).expect("small");
    let policy = VolumePolicy { chunk_bytes, retention_seconds: 0 };
    let operation = Box::new(Operation::CreateVolume { name: "sim".to_owned(), policy });
    Call::Mutate { group: GroupId(0), upload: None, operation }
}
