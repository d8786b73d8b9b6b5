package messaging

// Verdict returns what a [Consumer] of this configuration makes of a delivery whose
// handler returned err at the given attempt, the first being 1. It is for those who
// run handlers without a Consumer, in a transaction of the broker for one, and must
// judge alike. The text of the Verdict's Err is safe to read. Verdict panics where a
// method of err or Backoff does.
func (c ConsumerConfig) Verdict(err error, attempt int) Verdict {
	c, _ = c.withDefaults()
	v := c.verdict(err, attempt, false)
	v.Err = readable(v.Err)
	return v
}
