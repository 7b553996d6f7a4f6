;; Writes short lines to its error output without end.
;; Expected: timed_out; the log keeps its newest lines and counts the others.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\40\00\00\00\12\00\00\00")
  (data (i32.const 64) "a line of the log\0a")
  (func (export "_start")
    (loop $again
      (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $again))))
