//! The inner loops for x86 processors with AVX-512 or AVX2: the same operations in the same order as the portable ones.
//! It decides nothing, and it fuses no multiplication with an addition but where the product is exact.
//!
//! Why intrinsics: of the block of products, compilers make gathers and scatters instead of vectors (tens of times slower,
//! measured), and of the networks, rows in memory instead of registers. The other loops are plain Rust in functions that
//! may use the wider instructions.
#![allow(unsafe_code)] // loads and stores of whole vectors, each within a slice whose length was checked just before

use std::ops::Range;

use super::networks::{Comparator, with_networks};
use super::{BLOCK, Borders, MIX_WIDTH, MixedPart, MixedRow, ProductBlock, Rows, SUM_WIDTH, columns};
use crate::coordinates::Mixing;

/// f32 of a cache line.
const LINE: usize = 16;

/// How far ahead of the columns that are sorted the next ones are asked for: 1 KiB of each row.
const AHEAD: usize = 256;

/// The same where rows are mixed before: 512 bytes, since mixed rows and weighted terms share the first-level cache with them.
const NEAR: usize = 128;

/// How far ahead in a row that is read in long runs: 2 KiB.
const FAR: usize = 512;

/// Columns that are summed row after row: their sums in f64 take 16 KiB.
const RUN: usize = 2048;

/// Rows that are summed at a time.
const ROWS_SUMMED: usize = 4;

#[inline(always)]
fn ask(at: *const f32) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a hint about an address, which is never read; it need not even be mapped.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

/// The kernels, in terms of the vectors and operations of the module that calls it.
macro_rules! functions {
    ($feature:literal) => {
        /// Adds the products of the rows of `left` with those of `right`, lane by lane, as many rows at a time as leave
        /// their sums in registers. Values are converted where they are used: a copy of converted ones costs more.
        #[target_feature(enable = $feature)]
        pub(crate) fn products(left: &Rows<'_>, right: &Rows<'_>, centre: Option<&[f32]>, block: &mut ProductBlock) {
            match centre {
                None => block_of_products::<false, false>(left, right, &[], block),
                Some(centre) => block_of_products::<false, true>(left, right, centre, block),
            }
        }

        /// Adds the products of the rows among each other; asks for what comes next in them.
        #[target_feature(enable = $feature)]
        pub(crate) fn own_products(rows: &Rows<'_>, centre: Option<&[f32]>, block: &mut ProductBlock) {
            match centre {
                None => block_of_products::<true, false>(rows, rows, &[], block),
                Some(centre) => block_of_products::<true, true>(rows, rows, centre, block),
            }
        }

        #[inline]
        #[target_feature(enable = $feature)]
        fn block_of_products<const OWN: bool, const CENTRED: bool>(
            left: &Rows<'_>,
            right: &Rows<'_>,
            centre: &[f32],
            block: &mut ProductBlock,
        ) {
            let whole = left[0].len() - left[0].len() % 8;
            let (lefts, rights) = (starts::<BLOCK>(left, 0, whole), starts::<BLOCK>(right, 0, whole));
            let middle = if CENTRED {
                centre[..whole].as_ptr()
            } else {
                std::ptr::null()
            };
            for part in 0..8 / WIDE {
                for top in (0..BLOCK).step_by(ROWS) {
                    for side in (if OWN { top } else { 0 }..BLOCK).step_by(ROWS) {
                        let own = OWN && top == side;
                        let mut sums = [[zero_wide(); ROWS]; ROWS];
                        for i in 0..ROWS {
                            for j in (if own { i } else { 0 })..ROWS {
                                sums[i][j] = load_part(&block[top + i][side + j], part);
                            }
                        }
                        for at in (part * WIDE..whole).step_by(8) {
                            let mut across = [zero_wide(); ROWS];
                            // SAFETY: `at + WIDE` is at most `whole`, and every row and the centre has so many values.
                            let centre = if CENTRED {
                                unsafe { load_widened(middle.wrapping_add(at)) }
                            } else {
                                zero_wide()
                            };
                            for j in 0..ROWS {
                                let from = rights[side + j].wrapping_add(at);
                                if own && at.is_multiple_of(LINE) {
                                    ask(from.wrapping_add(FAR));
                                }
                                // SAFETY: as above.
                                let values = unsafe { load_widened(from) };
                                across[j] = if CENTRED {
                                    subtract_wide(values, centre)
                                } else {
                                    values
                                };
                            }
                            for i in 0..ROWS {
                                // SAFETY: as above.
                                let values = unsafe { load_widened(lefts[top + i].wrapping_add(at)) };
                                let down = if CENTRED {
                                    subtract_wide(values, centre)
                                } else {
                                    values
                                };
                                for j in (if own { i } else { 0 })..ROWS {
                                    sums[i][j] = match CENTRED {
                                        true => add_wide(sums[i][j], multiply_wide(down, across[j])),
                                        false => add_exact_product(sums[i][j], down, across[j]),
                                    };
                                }
                            }
                        }
                        for i in 0..ROWS {
                            for j in (if own { i } else { 0 })..ROWS {
                                store_part(&mut block[top + i][side + j], part, sums[i][j]);
                            }
                        }
                    }
                }
            }
            let rest = centre.get(whole..).filter(|_| CENTRED);
            let (left, right) = (left.map(|row| &row[whole..]), right.map(|row| &row[whole..]));
            super::super::products(&left, &right, rest, block);
        }

        #[inline]
        #[target_feature(enable = $feature)]
        fn load_part(lanes: &[f64; 8], part: usize) -> Wide {
            let (parts, _) = lanes.as_chunks::<WIDE>();
            load_wide(&parts[part])
        }

        #[inline]
        #[target_feature(enable = $feature)]
        fn store_part(lanes: &mut [f64; 8], part: usize, vector: Wide) {
            let (parts, _) = lanes.as_chunks_mut::<WIDE>();
            store_wide(&mut parts[part], vector);
        }

        /// Where the values of the rows from `begin` on lie; `length` of each may be read.
        fn starts<const N: usize>(rows: &[&[f32]], begin: usize, length: usize) -> [*const f32; N] {
            assert!(rows.len() == N, "this network is for {N} rows");
            std::array::from_fn(|i| rows[i][begin..begin + length].as_ptr())
        }

        /// The vectors at `at` of all rows.
        ///
        /// # Safety
        /// At least `at + LANES` values may be read from each pointer.
        #[inline]
        #[target_feature(enable = $feature)]
        unsafe fn load_rows<const N: usize>(rows: &[*const f32; N], at: usize) -> [Single; N] {
            let mut values = [zero(); N];
            for i in 0..N {
                // SAFETY: promised by the caller.
                values[i] = unsafe { load(rows[i].wrapping_add(at)) };
            }
            values
        }

        /// The smaller value of each lane to row `a`, the larger to row `b`.
        #[inline]
        #[target_feature(enable = $feature)]
        fn order<const N: usize>(rows: &mut [Single; N], a: usize, b: usize) {
            let (first, second) = (rows[a], rows[b]);
            rows[a] = least(second, first);
            rows[b] = greatest(first, second);
        }

        with_networks!(kernels, $feature);

        /// [`columns::scaled`] with wider instructions.
        #[target_feature(enable = $feature)]
        pub(crate) fn scaled(integers: &[u8], scale: f32, out: &mut [f32]) {
            columns::scaled(integers, scale, out);
        }

        /// [`columns::walk`] with wider instructions.
        #[target_feature(enable = $feature)]
        pub(crate) fn walk(network: &[Comparator], rows: &mut [MixedRow]) {
            columns::walk(network, rows);
        }

        /// [`columns::mean_of_rows`] with wider instructions.
        #[target_feature(enable = $feature)]
        pub(crate) fn mean_of_rows(rows: &[MixedRow], out: &mut [f32], borders: Option<&mut Borders>) {
            columns::mean_of_rows(rows, out, borders);
        }

        /// [`columns::near_median`] with wider instructions.
        #[target_feature(enable = $feature)]
        pub(crate) fn near_median(sorted: &[MixedRow], keep: usize, out: &mut [f32], borders: Option<&mut Borders>) {
            columns::near_median(sorted, keep, out, borders);
        }

        /// [`sum_rows`](super::super::sum_rows): a few rows at a time over columns whose sums stay in the first-level cache,
        /// so that memory is read in long runs; what comes next is asked for.
        #[target_feature(enable = $feature)]
        pub(crate) fn sum_rows(rows: &[&[f32]], factors: &[f64], keep: f64, divisor: f64, out: &mut [f32]) {
            let whole = out.len() - out.len() % LANES;
            let (head, tail) = out.split_at_mut(whole);
            let mut sums = [[0.0f64; WIDE]; RUN / WIDE];
            for (run, out) in head.chunks_mut(RUN).enumerate() {
                let sums = &mut sums[..out.len() / WIDE];
                for (sum, out) in sums.iter_mut().zip(out.chunks_exact(WIDE)) {
                    let kept = match keep == 0.0 {
                        true => zero_wide(),
                        // SAFETY: a part of `out` of WIDE values.
                        false => multiply_wide(broadcast(keep), unsafe { load_widened(out.as_ptr()) }),
                    };
                    store_wide(sum, kept);
                }
                let (fours, rest) = rows.as_chunks::<ROWS_SUMMED>();
                let (four_factors, rest_factors) = factors.as_chunks::<ROWS_SUMMED>();
                for (rows, factors) in fours.iter().zip(four_factors) {
                    add_scaled(rows, factors, run * RUN, sums);
                }
                for (row, factor) in rest.iter().zip(rest_factors) {
                    add_scaled(&[*row], &[*factor], run * RUN, sums);
                }
                for (out, pair) in out.chunks_exact_mut(LANES).zip(sums.as_chunks::<2>().0) {
                    store(
                        out,
                        bounded_quotient((load_wide(&pair[0]), load_wide(&pair[1])), divisor),
                    );
                }
            }
            let rest: Vec<&[f32]> = rows.iter().map(|row| &row[whole..]).collect();
            super::super::sum_rows(&rest, factors, keep, divisor, tail);
        }

        /// Adds the columns from `begin` on of some rows, each times its factor, in their order.
        #[inline]
        #[target_feature(enable = $feature)]
        fn add_scaled<const N: usize>(rows: &[&[f32]; N], factors: &[f64; N], begin: usize, sums: &mut [[f64; WIDE]]) {
            let starts = starts::<N>(rows, begin, sums.len() * WIDE);
            let mut scales = [zero_wide(); N];
            for i in 0..N {
                scales[i] = broadcast(factors[i]);
            }
            for (at, sum) in sums.iter_mut().enumerate() {
                let mut total = load_wide(sum);
                for i in 0..N {
                    let from = starts[i].wrapping_add(at * WIDE);
                    if (at * WIDE).is_multiple_of(LINE) {
                        ask(from.wrapping_add(FAR));
                    }
                    // SAFETY: `(at + 1) * WIDE` is at most the length that `starts` checked.
                    let values = unsafe { load_widened(from) };
                    total = add_wide(total, multiply_wide(scales[i], values));
                }
                store_wide(sum, total);
            }
        }

        /// [`mix`](super::super::mix): sums stay in registers over all of a row's terms; what comes next is asked for.
        #[target_feature(enable = $feature)]
        pub(crate) fn mix(
            rows: &[&[f32]],
            mixing: &Mixing,
            columns: Range<usize>,
            terms: &mut [MixedPart],
            mixed: &mut [MixedRow],
            at: usize,
        ) {
            /// Vectors of a row that are summed side by side.
            const SUMS: usize = 8;
            if columns.len() < MIX_WIDTH {
                return super::super::mix(rows, mixing, columns, terms, mixed, at);
            }
            let begin = columns.start;
            for (term, &(row, weight)) in terms.iter_mut().zip(&mixing.terms) {
                let (from, weight) = (rows[row][begin..begin + MIX_WIDTH].as_ptr(), broadcast(weight));
                for (k, term) in term.as_chunks_mut::<WIDE>().0.iter_mut().enumerate() {
                    // SAFETY: a part of the slice that was just taken.
                    let values = unsafe { load_widened(from.wrapping_add(k * WIDE)) };
                    store_wide(term, multiply_wide(weight, values));
                }
            }
            for part in 0..MIX_WIDTH / WIDE / SUMS {
                let mut shared = [zero_wide(); SUMS];
                for &term in &mixing.shared {
                    let values = &terms[term].as_chunks::<WIDE>().0.as_chunks::<SUMS>().0[part];
                    for k in 0..SUMS {
                        shared[k] = add_wide(shared[k], load_wide(&values[k]));
                    }
                }
                for (r, ((lacking, beside), mixed)) in mixing.rows.iter().zip(mixed.iter_mut()).enumerate() {
                    if let Some(row) = rows.get(r) {
                        for line in 0..SUMS * WIDE / LINE {
                            ask(row
                                .as_ptr()
                                .wrapping_add(begin + NEAR + part * SUMS * WIDE + line * LINE));
                        }
                    }
                    let mut sums = shared;
                    for &term in lacking {
                        let values = &terms[term].as_chunks::<WIDE>().0.as_chunks::<SUMS>().0[part];
                        for k in 0..SUMS {
                            sums[k] = subtract_wide(sums[k], load_wide(&values[k]));
                        }
                    }
                    for &term in beside {
                        let values = &terms[term].as_chunks::<WIDE>().0.as_chunks::<SUMS>().0[part];
                        for k in 0..SUMS {
                            sums[k] = add_wide(sums[k], load_wide(&values[k]));
                        }
                    }
                    let first = at + part * SUMS * WIDE;
                    let mixed = &mut mixed[first..first + SUMS * WIDE];
                    for (mixed, pair) in mixed.chunks_exact_mut(LANES).zip(sums.as_chunks::<2>().0) {
                        store(mixed, joined(pair[0], pair[1]));
                    }
                }
            }
        }
    };
}

/// Straight-line code for every network of the table: all rows in registers from the loads to the result.
macro_rules! kernels {
    (
        $feature:literal
        sort { $($all:literal [$(($c:literal $d:literal))*] [$($rank:literal)*])* }
        middle { $($n:literal $t:literal [$(($a:literal $b:literal))*] [$($kept:literal)*])* }
    ) => {
        /// Sorts `length` columns from `begin`, a multiple of the lanes, into `sorted`; false where there is no such kernel.
        #[target_feature(enable = $feature)]
        pub(crate) fn sort(rows: &[&[f32]], begin: usize, length: usize, sorted: &mut [MixedRow]) -> bool {
            match rows.len() {
                $($all => {
                    let starts = starts::<$all>(rows, begin, length);
                    let sorted: &mut [MixedRow; $all] = sorted.try_into().expect("as many rows");
                    assert!(length <= SUM_WIDTH);
                    for at in (0..length / LANES).map(|block| block * LANES) {
                        // SAFETY: `at + LANES` is at most `length`, which `starts` checked.
                        let mut values = unsafe { load_rows(&starts, at) };
                        $(order(&mut values, $c, $d);)*
                        for (row, values) in sorted.iter_mut().zip(values) {
                            store(&mut row[at..at + LANES], values);
                        }
                    }
                    true
                })*
                _ => false,
            }
        }

        /// The mean of the middle ranks of `out.len()` columns from `begin`, a multiple of the lanes; with `borders`, also
        /// the least and the greatest value that counted. False where there is no such kernel.
        #[target_feature(enable = $feature)]
        pub(crate) fn middle(
            rows: &[&[f32]],
            trim: usize,
            begin: usize,
            out: &mut [f32],
            borders: Option<&mut Borders>,
        ) -> bool {
            match (rows.len(), trim) {
                $(($n, $t) => {
                    #[target_feature(enable = $feature)]
                    fn kernel(rows: &[&[f32]], begin: usize, out: &mut [f32], mut borders: Option<&mut Borders>) {
                        let starts = starts::<$n>(rows, begin, out.len());
                        for (block, out) in out.chunks_exact_mut(LANES).enumerate() {
                            let at = block * LANES;
                            // SAFETY: `at + LANES` is at most `out.len()`, which `starts` checked.
                            let mut values = unsafe { load_rows(&starts, at) };
                            for start in &starts {
                                ask(start.wrapping_add(at + AHEAD));
                            }
                            $(order(&mut values, $a, $b);)*
                            let mut sum = (zero_wide(), zero_wide());
                            $(sum = add_widened(sum, values[$kept]);)*
                            store(out, quotient(sum, ($n - 2 * $t) as f64));
                            if let Some((low, high)) = &mut borders {
                                let (mut first, mut last) = (values[$t], values[$t]);
                                $(
                                    first = least(first, values[$kept]);
                                    last = greatest(last, values[$kept]);
                                )*
                                store(&mut low[at..at + LANES], first);
                                store(&mut high[at..at + LANES], last);
                            }
                        }
                    }
                    kernel(rows, begin, out, borders);
                    true
                })*
                _ => false,
            }
        }
    };
}

pub(crate) mod avx2;
pub(crate) mod avx512;
