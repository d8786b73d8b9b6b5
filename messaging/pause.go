package messaging

import (
	"fmt"
	"slices"
)

// Pause has a subscription take in nothing more until [Consumer.Resume]: what no
// handler has begun with goes back to the broker, running handlers finish, and the
// others of Run go on. Messages wait at the broker meanwhile, or go to others of
// the group.
//
// It returns at once; the InFlight of [Consumer.Stats] tells when the last handler
// has finished. Called before Run, the subscription begins paused. Pausing what is
// paused, and after Run, does nothing. The error is [ErrInvalid] when group of
// topic was not given to Handle.
func (c *Consumer) Pause(topic, group string) error {
	s, err := c.subscriber(topic, group)
	if err != nil {
		return fmt.Errorf("%w: pause: %w", ErrInvalid, err)
	}
	s.pause()
	return nil
}

// Resume undoes [Consumer.Pause]: it subscribes again, once the handlers that ran
// when it was paused have finished. Resuming what is not paused does nothing. The
// error is [ErrInvalid] when group of topic was not given to Handle.
func (c *Consumer) Resume(topic, group string) error {
	s, err := c.subscriber(topic, group)
	if err != nil {
		return fmt.Errorf("%w: resume: %w", ErrInvalid, err)
	}
	s.resume()
	return nil
}

// subscriber returns the subscription of that name.
func (c *Consumer) subscriber(topic, group string) (*subscriber, error) {
	for _, s := range c.subscribers() {
		if s.sub.Topic == topic && s.sub.Group == group {
			return s, nil
		}
	}
	return nil, fmt.Errorf("group %q of topic %q has no handler: call Handle first", group, topic)
}

// subscribers returns the subscriptions that were added until now.
func (c *Consumer) subscribers() []*subscriber {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.subs)
}
