;; A command that never returns.
;; Expected: stopped at the deadline, timed_out.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $again (br $again))))
