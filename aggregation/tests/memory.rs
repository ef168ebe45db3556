//! How much memory a rule takes while it reads sixteen encoded updates: the output, and less than a mebibyte beside it.
//! It counts what is allocated, and measures neither stacks nor speed.
//!
//! One test alone in its file: what other threads of the process allocate would be counted too.
#![allow(unsafe_code)] // an allocator has no safe door in the standard library

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use synod_aggregation::{
    Aggregator, Composition, Contribution, EncodingConfig, PreAggregationConfig, Radius, RuleConfig, Values,
};

/// The system's allocator, with a count of the bytes that are taken and of the most that ever were.
struct Counting;

static TAKEN: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is left to the system's allocator; counting touches no memory that it hands out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let taken = TAKEN.fetch_add(layout.size(), Ordering::SeqCst) + layout.size();
        MOST.fetch_max(taken, Ordering::SeqCst);
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were taken at one time during `work`, beyond those before it.
fn peak(work: impl FnOnce()) -> usize {
    let before = TAKEN.load(Ordering::SeqCst);
    MOST.store(before, Ordering::SeqCst);
    work();
    MOST.load(Ordering::SeqCst) - before
}

const MEMBERS: usize = 16;
const DIMENSION: usize = 1 << 20;
const F: usize = 3;
/// Beside the output, for two threads.
const ALLOWED_BYTES: usize = 1 << 20;

fn update(member: usize) -> Vec<f32> {
    (0..DIMENSION)
        .map(|k| ((k * 31 + member * 17) % 257) as f32 / 64.0 - 2.0)
        .collect()
}

fn compositions() -> Vec<Composition> {
    let radius = Radius::MedianDistance;
    vec![
        Composition::of(RuleConfig::Mean),
        Composition::of(RuleConfig::TrimmedMean { f: F }),
        Composition::of(RuleConfig::Median),
        Composition::of(RuleConfig::Meamed { f: F }),
        Composition::of(RuleConfig::Rfa),
        Composition::of(RuleConfig::Mda { f: F }),
        Composition::of(RuleConfig::CenteredClip { iterations: 3, radius }),
        Composition {
            pre: vec![PreAggregationConfig::Bucketing { size: 2 }],
            rule: RuleConfig::Median,
        },
        Composition::robust(F),
    ]
}

#[test]
fn sixteen_encoded_updates_take_one_output_and_less_than_a_mebibyte() {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .build()
        .expect("two threads");
    let dense = 4 * DIMENSION;
    for encoding in [
        EncodingConfig::F32,
        EncodingConfig::Bf16,
        EncodingConfig::Int8 { block: 256 },
    ] {
        let encoder = encoding.build();
        let bytes: Vec<Vec<u8>> = (0..MEMBERS)
            .map(|member| {
                let mut bytes = Vec::new();
                encoder.encode(&update(member), &mut bytes);
                bytes
            })
            .collect();
        let contributions: Vec<Contribution<'_>> = bytes
            .iter()
            .map(|bytes| Contribution {
                values: Values::Encoded {
                    encoder: encoder.as_ref(),
                    bytes,
                    dimension: DIMENSION,
                },
                weight: 1.0,
            })
            .collect();
        for whole in compositions() {
            let taken = peak(|| {
                let mut out = vec![0.0f32; DIMENSION];
                let verdicts = pool.install(|| whole.aggregate(&contributions, &mut out));
                assert_eq!(verdicts.len(), MEMBERS);
            });
            let case = format!("{} from {}", whole.name(), encoding.name());
            assert!(taken >= dense, "{case}: the output itself is counted, {taken} bytes");
            let beside = taken - dense;
            assert!(beside <= ALLOWED_BYTES, "{case}: {beside} bytes beside the output");
        }
    }
}
