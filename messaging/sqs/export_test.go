package sqs

import "time"

// SetFreshly makes publishers ask again for the groups of a topic after d, and new
// groups wait for that and step.
func SetFreshly(b *Broker, d, step time.Duration) { b.freshly, b.step = d, step }
