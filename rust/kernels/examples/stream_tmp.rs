use ostro_kernels::formats::{Format, Weights};
use ostro_kernels::isa::Isa;
use ostro_kernels::matmul::{Activations, Mode, Needs, OutView, Precision, Scratch, multiply};
use ostro_kernels::team::Team;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let format = Format::parse(&args[1]).unwrap();
    let (cols, tokens): (usize, usize) = (args[2].parse().unwrap(), args[3].parse().unwrap());
    let chunk: usize = args[4].parse().unwrap();
    let matrix: usize = args[5].parse().unwrap(); // rows per region
    let mode = if args[6] == "8" { Mode::Blocks(Precision::Int8) } else { Mode::Blocks(Precision::Int14) };
    let rb = format.row_bytes(cols).unwrap();
    let rows = (700 << 20) / rb / matrix * matrix;
    let len = rows * rb;
    let ptr = unsafe { libc::mmap(std::ptr::null_mut(), len + (4 << 20), 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) } as *mut u8;
    let ptr = unsafe { ptr.add(ptr.align_offset(2 << 20)) };
    unsafe { libc::madvise(ptr.cast(), len, libc::MADV_HUGEPAGE) };
    let data = unsafe { std::slice::from_raw_parts_mut(ptr, len) };
    let mut s = 1u64;
    for c in data.chunks_exact_mut(8) { s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); c.copy_from_slice(&(s & 0x3f3f_3f3f_3f3f_3f3f).to_le_bytes()); }
    let data = &*data;
    let team = Team::new(2).unwrap();
    let mats: Vec<Weights> = (0..rows / matrix).map(|i| Weights::with_strips(&data[i * matrix * rb..(i + 1) * matrix * rb], &[], format, matrix, cols).unwrap()).collect();
    let mut x = Activations::new();
    x.reset(tokens, cols, Needs::of(Isa::detect(), &mats[..1], mode));
    let v: Vec<f32> = (0..cols).map(|i| (i as f32).sin()).collect();
    for t in 0..tokens { x.set_row(t, &v); }
    let mut out = vec![0.0f32; tokens * matrix];
    let (p, n) = (out.as_mut_ptr() as usize, out.len());
    let mut best = f64::MAX; let mut sum = 0.0;
    for rep in 0..7 {
        let t = std::time::Instant::now();
        for w in &mats {
            team.run(|worker| {
                let mut scratch = Scratch::default();
                worker.stream(0, matrix, chunk, |r| {
                    let view = unsafe { OutView::from_raw(p as *mut f32, n, matrix, 0) };
                    multiply(Isa::detect(), w, r, &x, mode, view, &mut scratch);
                });
                worker.barrier();
            });
        }
        let d = t.elapsed().as_secs_f64();
        if rep > 0 { best = best.min(d); sum += d; }
    }
    println!("{} cols {cols} T{tokens} chunk {chunk} matrix {matrix}: best {:.1} mean {:.1} GB/s", args[1], len as f64 / best / 1e9, len as f64 * 6.0 / sum / 1e9);
}
