;; Fills 8 MiB at a time without end: epochs do not interrupt a bulk instruction, only what is around it.
;; Expected: stopped soon after the deadline, timed_out.
(module
  (memory (export "memory") 128)
  (func (export "_start")
    (loop $again
      (memory.fill (i32.const 0) (i32.const 0x5a) (i32.const 8388608))
      (br $again))))
