//! Calls that this thread may not make any more, as in a sandbox or on an old kernel.

/// From now on a call answers `errno` where its arguments, by their numbers, are these values.
pub(crate) fn forbid(call: libc::c_long, arguments: &[(usize, i32)], errno: i32) {
    let step = |code: u32, jt, jf, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, is) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ);
    let number = std::mem::offset_of!(libc::seccomp_data, nr);
    let first = std::mem::offset_of!(libc::seccomp_data, args);
    let mut wanted = vec![(number, call as u32)];
    wanted.extend(arguments.iter().map(|(at, value)| (first + 8 * at, *value as u32)));
    let mut steps = Vec::new();
    for (place, (offset, value)) in wanted.iter().enumerate() {
        // To the last step, which allows the call, past the pairs that follow and the refusal.
        let past = (2 * (wanted.len() - 1 - place) + 1) as u8;
        steps.push(step(load, 0, 0, *offset as u32));
        steps.push(step(is, 0, past, *value));
    }
    steps.push(step(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32));
    steps.push(step(libc::BPF_RET, 0, 0, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: takes plain numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: `program` has as many steps as it says, and the kernel copies them.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) }, 0);
}
