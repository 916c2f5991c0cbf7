//! The emulator finds the faults that it is there for.

use super::support::{download, normal, unwritten, upload};
use erw_emulator::{Emulator, Schedule};
use erw_gpu::machine::Machine;
use erw_gpu::program::{Argument, Launch, Program, Type};

const THREADS: usize = 64;

/// The output of a kernel on the same numbers under each schedule, or its error.
fn outputs(kernel: &str) -> Vec<Result<Vec<u32>, String>> {
    let one = |schedule| {
        let card = Emulator::new(schedule);
        let x = upload(&card, &normal(3, THREADS), Type::F32);
        let y = unwritten(&card, THREADS, Type::F32);
        let mut program = Program::default();
        program.launch(Launch {
            kernel: kernel.into(),
            grid: [1, 1],
            threads: THREADS as u32,
            shared: 4 * THREADS as u32,
            arguments: vec![Argument::Pointer(x), Argument::Pointer(y)],
        });
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
    assert!(said.contains("command 0, fault_index") && said.contains("writes beside an allocation"), "{said}");
}

#[test]
fn lanes_that_wait_at_different_places_are_a_deadlock() {
    assert!(is_right("right_lanes"));
    assert!(errors("fault_lanes").contains("deadlock"), "{}", errors("fault_lanes"));
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
    };
    assert!(said(launch("nothing", 32, vec![])).contains("no kernel has this name"));
    let wrong = said(launch("right_index", 32, vec![Argument::Int(1), Argument::Float(1.0)]));
    assert!(wrong.contains("takes (pp), not (if)"), "{wrong}");
    let null = || Argument::Pointer(erw_gpu::program::Address::NULL);
    assert!(said(launch("right_index", 128, vec![null(), null()])).contains("up to 64 threads"));
}
