;; Does nothing, as fast as can be.
;; Expected: completed, no output.
(module
  (memory (export "memory") 1)
  (func (export "_start")))
