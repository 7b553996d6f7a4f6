# tests.awk: which tests of the standard harness ran and which were left out, from what one said with --show-output.
# Prints a line each, "ran NAME" or "left-out NAME"; a test is left out that passed and printed `not run: WHAT`.
/^test .* \.\.\. ok$/ { ok[++count] = $2 }
/^successes:$/ { succeeded = 1; section = "" }
/^failures:$/ { succeeded = 0; section = "" }
/^---- .* std(out|err) ----$/ { section = succeeded ? $2 : "" }
/^test result: / { section = "" }
/^ *not run: / && section != "" { left_out[section] = 1; section = "" }
END { for (i = 1; i <= count; i++) print (ok[i] in left_out ? "left-out " : "ran ") ok[i] }
