package rabbitmq

import "slices"

// A ledger knows which deliveries of a channel are settled. RabbitMQ numbers them
// from 1, without a gap. It takes memory for as many as are not settled, whatever
// was settled after them.
type ledger struct {
	low  uint64 // all up to this one are settled
	runs []run  // what is settled above low, in order; no two of them touch
}

// A run is a range of settled tags, both ends included.
type run struct{ first, last uint64 }

// settle notes tag, which must not be noted already.
func (l *ledger) settle(tag uint64) {
	if tag == l.low+1 {
		l.low = tag
		if len(l.runs) > 0 && l.runs[0].first == tag+1 {
			l.low = l.runs[0].last
			l.runs = slices.Delete(l.runs, 0, 1)
		}
		return
	}
	// i is the first run that ends no earlier than just before tag.
	i, _ := slices.BinarySearchFunc(l.runs, tag, func(r run, tag uint64) int {
		if r.last+1 < tag {
			return -1
		}
		return 1
	})
	switch {
	case i < len(l.runs) && l.runs[i].last+1 == tag:
		l.runs[i].last = tag
		if i+1 < len(l.runs) && l.runs[i+1].first == tag+1 {
			l.runs[i].last = l.runs[i+1].last
			l.runs = slices.Delete(l.runs, i+1, i+2)
		}
	case i < len(l.runs) && l.runs[i].first == tag+1:
		l.runs[i].first = tag
	default:
		l.runs = slices.Insert(l.runs, i, run{tag, tag})
	}
}
