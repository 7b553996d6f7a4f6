;; Asks for more memory than it may have, is refused, and carries on well: exits with 0.
;; Expected: completed; a refused growth alone is not a failure.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (if (i32.ne (memory.grow (i32.const 65535)) (i32.const -1)) (then unreachable))))
