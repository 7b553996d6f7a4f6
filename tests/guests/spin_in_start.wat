;; The start function, which runs while the module is being instantiated, never returns.
;; Expected: stopped at the deadline, timed_out, although no entry was called yet.
(module
  (memory (export "memory") 1)
  (func $spin (loop $again (br $again)))
  (func (export "_start"))
  (start $spin))
