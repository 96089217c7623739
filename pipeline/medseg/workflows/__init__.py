"""One public function per verb."""
