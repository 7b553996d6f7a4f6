//! Every wall: a program that is stopped by it, and the same program succeeding without it.
