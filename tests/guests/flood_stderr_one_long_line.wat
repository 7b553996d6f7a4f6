;; Writes 100,000,000 bytes without a line end to its error output, then returns.
;; Expected: completed; the ring stays bounded, and what was dropped is counted to the byte.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "\00\40\00\00\00\00\00\00")
  (func (export "_start")
    (local $left i32)
    (memory.fill (i32.const 16384) (i32.const 0x78) (i32.const 100000))
    (local.set $left (i32.const 100000000))
    (loop $again
      (i32.store (i32.const 4) (i32.const 100000))
      (if (i32.lt_u (local.get $left) (i32.const 100000))
        (then (i32.store (i32.const 4) (local.get $left))))
      (if (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
      (local.set $left (i32.sub (local.get $left) (i32.load (i32.const 8))))
      (br_if $again (local.get $left)))))
