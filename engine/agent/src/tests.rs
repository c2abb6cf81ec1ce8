//! Agents on simulated links and disks.
