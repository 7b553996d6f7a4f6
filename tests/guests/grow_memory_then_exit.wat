;; Takes memory a megabyte at a time until it is refused, touching every page it got, then exits with 7.
;; Expected: out_of_memory (a growth was refused and the guest gave up).
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (local $first i32)
    (local $page i32)
    (loop $more
      (local.set $first (memory.grow (i32.const 16)))
      (if (i32.eq (local.get $first) (i32.const -1)) (then (call $exit (i32.const 7))))
      (local.set $page (local.get $first))
      (loop $touch
        (i32.store (i32.mul (local.get $page) (i32.const 65536)) (i32.const 1))
        (local.set $page (i32.add (local.get $page) (i32.const 1)))
        (br_if $touch (i32.lt_u (local.get $page) (i32.add (local.get $first) (i32.const 16)))))
      (br $more))))
