package kafka

import (
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A balancer is the cooperative-sticky one of franz-go and of the Java clients,
// under the same name, but shares the topic that is published to by itself and
// the rungs by themselves. Counted together, one member could get all the work,
// and another the rungs, which are mostly empty.
type balancer struct {
	kgo.GroupBalancer
	work string
}

func newBalancer(work string) kgo.GroupBalancer {
	return balancer{kgo.CooperativeStickyBalancer(), work}
}

// MemberBalancer implements [kgo.GroupBalancer].
func (b balancer) MemberBalancer(members []kmsg.JoinGroupResponseMember) (kgo.GroupMemberBalancer, map[string]struct{}, error) {
	sticky, topics, err := b.GroupBalancer.MemberBalancer(members)
	both, ok := sticky.(*kgo.ConsumerBalancer)
	if err != nil || !ok {
		return sticky, topics, err
	}
	return memberBalancer{both, b.work}, topics, nil
}

type memberBalancer struct {
	*kgo.ConsumerBalancer
	work string
}

// BalanceOrError implements [kgo.GroupMemberBalancerOrError], which the client
// prefers to Balance.
func (b memberBalancer) BalanceOrError(topics map[string]int32) (kgo.IntoSyncAssignment, error) {
	work, rest := map[string]int32{}, map[string]int32{}
	for topic, partitions := range topics {
		if topic == b.work {
			work[topic] = partitions
		} else {
			rest[topic] = partitions
		}
	}
	both := b.NewPlan()
	for _, part := range []map[string]int32{work, rest} {
		into, err := b.ConsumerBalancer.BalanceOrError(part)
		if err != nil {
			return nil, err
		}
		plan, ok := into.(*kgo.BalancePlan)
		if !ok {
			return b.ConsumerBalancer.BalanceOrError(topics)
		}
		byMember := plan.AsMemberIDMap()
		b.EachMember(func(member *kmsg.JoinGroupResponseMember, _ *kmsg.ConsumerMemberMetadata) {
			for topic, partitions := range byMember[member.MemberID] {
				both.AddPartitions(member, topic, partitions)
			}
		})
	}
	return both, nil
}
