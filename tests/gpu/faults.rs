//! The emulator finds the faults that it is there for.

use super::support::{download, normal, unwritten, upload};
use erw_emulator::{Emulator, Schedule};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Address, Argument, Launch, Program, Region, Type};

const THREADS: usize = 64;

const BYTES: usize = 4 * THREADS;

/// A launch from x to y, which tells what it should.
fn launch(kernel: &str, x: Address, y: Address) -> Launch {
    Launch {
        kernel: kernel.into(),
        grid: [1, 1],
        threads: THREADS as u32,
        shared: BYTES as u32,
        arguments: vec![Argument::Pointer(x), Argument::Pointer(y)],
        regions: vec![Region::read(x, BYTES), Region::write(y, BYTES)],
        operations: 0,
    }
}

/// The output of a kernel on the same numbers under each schedule, or its error.
fn outputs(kernel: &str) -> Vec<Result<Vec<u32>, String>> {
    let one = |schedule| {
        let card = Emulator::new(schedule);
        let x = upload(&card, &normal(3, THREADS), Type::F32);
        let y = unwritten(&card, THREADS, Type::F32);
        let mut program = Program::default();
        program.launch(launch(kernel, x, y));
        card.run(&program).map_err(|e| e.to_string())?;
        Ok(download(&card, y, THREADS, Type::F32).into_iter().map(f32::to_bits).collect())
    };
    [Schedule::First, Schedule::Last, Schedule::Random(7)].map(one).into()
}

/// Every schedule gives the same numbers.
fn is_right(kernel: &str) -> bool {
    let all = outputs(kernel);
    let finite = |bits: &Vec<u32>| bits.iter().all(|b| f32::from_bits(*b).is_finite());
    all.iter().all(|one| one.as_ref().is_ok_and(finite)) && all.windows(2).all(|w| w[0] == w[1])
}

fn errors(kernel: &str) -> String {
    outputs(kernel).into_iter().filter_map(Result::err).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_missing_barrier_shows() {
    assert!(is_right("right_barrier"));
    assert!(!is_right("fault_barrier"));
}

#[test]
fn a_missing_wait_for_copies_shows() {
    assert!(is_right("right_wait"));
    assert!(!is_right("fault_wait"));
}

#[test]
fn an_index_past_the_end_is_named() {
    assert!(is_right("right_index"));
    let said = errors("fault_index");
    assert!(said.contains("kernel `fault_index`"), "{said}");
    assert!(said.contains("writes 4 bytes that its launch does not tell, 1 bytes from Region"), "{said}");
}

#[test]
fn a_launch_that_tells_other_memory_than_it_touches_is_refused() {
    let card = Emulator::default();
    let x = upload(&card, &normal(3, 2 * THREADS), Type::F32);
    let y = unwritten(&card, THREADS, Type::F32);
    let said = |change: fn(&mut Launch)| {
        let mut launch = launch("right_index", x, y);
        change(&mut launch);
        let mut program = Program::default();
        program.launch(launch);
        card.run(&program).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert_eq!(said(|_| ()), "");
    let nothing = said(|l| l.regions.clear());
    assert!(nothing.contains("kernel `right_index`") && nothing.contains("reads 4 bytes that its"), "{nothing}");
    let less = said(|l| l.regions[0].bytes -= 1);
    assert!(less.contains("reads 4 bytes that its launch does not tell"), "{less}");
    let more = said(|l| l.regions[0].bytes += 4);
    assert!(more.contains("260 bytes of region 0 are told as read, and 256 were"), "{more}");
    let other = said(|l| l.regions.swap(0, 1));
    assert_eq!(other, "", "the order does not matter");
    let as_written = said(|l| l.regions[0] = Region::write(l.regions[0].at, BYTES));
    assert!(as_written.contains("reads 4 bytes that its launch does not tell"), "{as_written}");
    let twice = said(|l| l.regions.push(Region::read(l.regions[0].at, 4)));
    assert!(twice.contains("overlaps another"), "{twice}");
    let elsewhere = said(|l| l.regions[0].bytes *= 3);
    assert!(elsewhere.contains("are in no allocation"), "{elsewhere}");
    assert_eq!(said(|l| l.regions[0] = l.regions[0].perhaps()), "");
    let at_most = said(|l| l.regions[0] = l.regions[0].at_most(BYTES - 4));
    assert!(at_most.contains("252 bytes of region 0 are told as read, and 256 were"), "{at_most}");
    let products = said(|l| l.operations = 4096);
    assert!(products.contains("4096 operations of tensor cores are told, and 0 were done"), "{products}");
}

#[test]
fn lanes_that_wait_at_different_places_are_a_deadlock() {
    assert!(is_right("right_lanes"));
    assert!(errors("fault_lanes").contains("deadlock"), "{}", errors("fault_lanes"));
}

#[test]
#[ignore = "for .ci/cuda/sanitize, whose sanitizers end the program"]
fn shared_memory_past_its_end() {
    outputs("fault_shared");
}

#[test]
#[ignore = "for .ci/cuda/sanitize, whose sanitizers end the program"]
fn an_integer_that_overflows() {
    outputs("fault_overflow");
}

#[test]
fn launches_that_cannot_be_are_refused() {
    let said = |launch: Launch| {
        let mut program = Program::default();
        program.launch(launch);
        Emulator::default().run(&program).unwrap_err().to_string()
    };
    let launch = |kernel: &str, threads, arguments| Launch {
        kernel: kernel.into(),
        grid: [1, 1],
        threads,
        shared: 0,
        arguments,
        regions: vec![],
        operations: 0,
    };
    assert!(said(launch("nothing", 32, vec![])).contains("no kernel has this name"));
    let wrong = said(launch("right_index", 32, vec![Argument::Int(1), Argument::Float(1.0)]));
    assert!(wrong.contains("takes (pp), not (if)"), "{wrong}");
    let null = || Argument::Pointer(Address::NULL);
    assert!(said(launch("right_index", 128, vec![null(), null()])).contains("up to 64 threads"));
}
